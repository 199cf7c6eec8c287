"""Packed documents as cuDNN takes them: where each begins and how long it is, by classes of length.

A call serves a fixed number of documents up to a fixed length, and its work space is that of so
many sequences of that length: as many slots as a row may have documents, each as long as a row,
would cost gigabytes. So documents are served by length: those longer than a quarter of the
row, at most three a row; those longer than a sixteenth, at most fifteen, by slots a quarter as
long; and so on. Every call's work space is then four times that of the batch, and no class but the
last can have more documents than slots. What the last one lacks is served in further rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

#: Longest document of a class over that of the next.
RATIO = 4
#: The last class serves documents of at most about this many tokens.
SHORT = 128
#: Marks the calls for all but the longest class, whose work the planner's model counts already: a
#: batch has most of it when every document is as long as its row.
SHORTER = "shorter_documents"


@dataclass(frozen=True)
class LengthClass:
    """Slots of one call: the batch's tokens as `rows` of `longest`, `per_row` slots for each."""

    longest: int
    rows: int
    per_row: int

    @property
    def slots(self) -> int:
        """Documents that a call serves."""
        return self.rows * self.per_row


def length_classes(batch: int, length: int) -> tuple[LengthClass, ...]:
    """Return the classes that serve a batch, longest first.

    Args:
        batch: rows.
        length: tokens of a row.
    """
    lengths = [length]
    while lengths[-1] % (2 * RATIO) == 0 and lengths[-1] // RATIO >= SHORT:
        lengths.append(lengths[-1] // RATIO)
    # The longest class ends above a quarter of a row: three fit.
    slots = [RATIO - 1, *[RATIO] * (len(lengths) - 1)] if len(lengths) > 1 else [RATIO]
    return tuple(
        LengthClass(longest, batch * length // longest, per_row)
        for longest, per_row in zip(lengths, slots, strict=True)
    )


@dataclass(frozen=True)
class Slots:
    """The documents of one call, with p all tokens of the batch in order.

    Attributes:
        kind: the class that they belong to.
        lengths_n: int32, 0 in slots without a document.
        begins_n: int32, in p; their number in slots without a document.
        inside_bs: whether a token's document is in a slot of this call.
        slot_p: of each token's document, 0 for documents of other calls.
        within_p: place of each token in its document.
    """

    kind: LengthClass
    lengths_n: Int[Array, " n"]
    begins_n: Int[Array, " n"]
    inside_bs: Bool[Array, "b s"]
    slot_p: Int[Array, " p"]
    within_p: Int[Array, " p"]

    def per_token(self, stats_nhl: Float[Array, "n h l"]) -> Float[Array, "b s h"]:
        """Return what slots say of each token; anything for tokens that are not inside."""
        found_ph = stats_nhl[self.slot_p, :, jnp.minimum(self.within_p, self.kind.longest - 1)]
        return found_ph.reshape(*self.inside_bs.shape, -1)

    def per_slot(self, values_bsh: Float[Array, "b s h"]) -> Float[Array, "n h l"]:
        """Return the values of each slot's tokens; anything after a document's end."""
        values_ph = values_bsh.reshape(-1, values_bsh.shape[-1])
        places_nl = self.begins_n[:, None] + jnp.arange(self.kind.longest)
        return values_ph[jnp.minimum(places_nl, len(values_ph) - 1)].swapaxes(1, 2)


@dataclass(frozen=True)
class Documents:
    """All documents of a batch in their order; arrays over d have room for one per token.

    Attributes:
        classes: as `length_classes` has them.
        number_bs: document of each token, from 0 over all rows.
        begin_d: first token, in all tokens of the batch.
        length_d: tokens; 0 where there is no document.
        member_cd: whether a document belongs to a class.
        rank_cd: its number among those of the class; only members' counts.
    """

    classes: tuple[LengthClass, ...]
    number_bs: Int[Array, "b s"]
    begin_d: Int[Array, " d"]
    length_d: Int[Array, " d"]
    member_cd: Bool[Array, "c d"]
    rank_cd: Int[Array, "c d"]

    def slots(self, c: int, first: int | Int[Array, ""] = 0) -> Slots:
        """Return the documents of class `c` from its number `first` on, as many as a call takes."""
        kind, number_p = self.classes[c], self.number_bs.reshape(-1)
        slot_d = self.rank_cd[c] - first
        taken_d = self.member_cd[c] & (slot_d >= 0) & (slot_d < kind.slots)
        into_d = jnp.where(taken_d, slot_d, kind.slots)
        total = number_p.size
        return Slots(
            kind,
            jnp.zeros(kind.slots, jnp.int32).at[into_d].set(self.length_d, mode="drop"),
            jnp.full(kind.slots, total, jnp.int32).at[into_d].set(self.begin_d, mode="drop"),
            taken_d[number_p].reshape(self.number_bs.shape),
            jnp.where(taken_d, slot_d, 0)[number_p],
            jnp.arange(total, dtype=jnp.int32) - self.begin_d[number_p],
        )


def find_documents(segments_bs: Int[Array, "b s"]) -> Documents:
    """Return where the documents of a batch are: runs of neighbours with the same number."""
    total = segments_bs.size
    begins_bs = jnp.pad(
        segments_bs[:, 1:] != segments_bs[:, :-1], ((0, 0), (1, 0)), constant_values=True
    )
    begins_p = begins_bs.reshape(-1)
    number_p = jnp.cumsum(begins_p, dtype=jnp.int32) - 1
    begin_d = jnp.full(total + 1, total, jnp.int32)
    begin_d = begin_d.at[jnp.where(begins_p, number_p, total + 1)].set(
        jnp.arange(total, dtype=jnp.int32), mode="drop"
    )
    length_d = begin_d[1:] - begin_d[:-1]
    classes = length_classes(*segments_bs.shape)
    longest_c = jnp.asarray([kind.longest for kind in classes], jnp.int32)
    above_c = jnp.asarray([*(kind.longest for kind in classes[1:]), 0], jnp.int32)
    member_cd = (length_d <= longest_c[:, None]) & (length_d > above_c[:, None])
    return Documents(
        classes,
        number_p.reshape(segments_bs.shape),
        begin_d[:-1],
        length_d,
        member_cd,
        jnp.cumsum(member_cd, axis=1, dtype=jnp.int32) - 1,
    )


def over_documents(
    segments_bs: Int[Array, "b s"], run: Callable[[Slots], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """Return what `run` returns for each token's document.

    Args:
        segments_bs: document of each token.
        run: takes documents and returns arrays [b, s, ...] that count for their tokens only.
    """
    documents = find_documents(segments_bs)
    last = len(documents.classes) - 1
    results = run(documents.slots(0))

    def add(slots: Slots, results: tuple[Array, ...]) -> tuple[Array, ...]:
        with jax.named_scope(SHORTER):
            return _chosen(slots.inside_bs, run(slots), results)

    for c in range(1, last + 1):
        results = add(documents.slots(c), results)
    count, step = jnp.sum(documents.member_cd[last]), documents.classes[last].slots

    def further(results: tuple[Array, ...]) -> tuple[Array, ...]:
        _, results = jax.lax.while_loop(
            lambda state: state[0] < count,
            lambda state: (state[0] + step, add(documents.slots(last, state[0]), state[1])),
            (jnp.asarray(step, count.dtype), results),
        )
        return results

    return jax.lax.cond(count > step, further, lambda results: results, results)


def _chosen(inside_bs: Array, new: tuple[Any, ...], old: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        jnp.where(jnp.expand_dims(inside_bs, range(2, n.ndim)), n, o)
        for n, o in zip(new, old, strict=True)
    )
