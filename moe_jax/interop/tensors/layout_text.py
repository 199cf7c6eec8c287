"""The text of a layout, parsed; what it means for arrays is in `layout.py`."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moe_jax.errors import UserError


@dataclass(frozen=True)
class Axis:
    """An axis of both sides."""

    name: str
    size: int

    @property
    def span(self) -> int:
        """Its length in a tensor of theirs."""
        return self.size

    @property
    def index(self) -> int | slice:
        """Where along its length ours is."""
        return slice(None)

    @property
    def axes(self) -> tuple["Axis", ...]:
        """What is left of it on our side."""
        return (self,)


@dataclass(frozen=True)
class Pick:
    """The `index`-th of `span`."""

    index: int
    span: int
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Part:
    """One part of several that follow each other: from `start`, of `span`."""

    start: int
    span: int
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Length of the part."""
        return math.prod(axis.size for axis in self.axes)

    @property
    def index(self) -> slice:
        """Where along the length of all parts this one is."""
        return slice(self.start, self.start + self.size)


#: A dimension of theirs, from outer to inner.
Dim = tuple[Axis | Pick | Part, ...]


@dataclass(frozen=True)
class _Parts:
    """Nodes joined by `+`; a node is a word, or a list of nodes in parentheses."""

    nodes: tuple[str | list, ...]


def parse_layout(
    text: str, ours_shape: tuple[int, ...], sizes: Mapping[str, int]
) -> tuple[tuple[Dim, ...], tuple[tuple[str, ...], ...]]:
    """Return (dimensions of theirs, names of the axes of each dimension of ours)."""
    theirs, arrow, mine = text.partition("->")
    ours = tuple(tuple(_words(node)) for node in _nodes(mine))
    if not arrow or len(ours) != len(ours_shape):
        raise UserError(
            f"layout {text!r} must read 'theirs -> ours' with {len(ours_shape)} dimensions of "
            f"ours, for a slab of shape {ours_shape}"
        )
    known = _solve(text, ours, ours_shape, sizes)
    names = [name for dim in ours for name in dim]
    dims = tuple(_dim(text, node, names, known) for node in _nodes(theirs))
    theirs_names = [axis.name for dim in dims for factor in dim for axis in factor.axes]
    if sorted(theirs_names) != sorted(names):
        raise UserError(
            f"layout {text!r} has axes {theirs_names} on their side and {names} on ours"
        )
    return dims, ours


def _nodes(text: str) -> list:
    return _sequence(iter(re.findall(r"[()+]|[^\s()+]+", text)))


def _sequence(tokens: Iterator[str]) -> list:
    nodes: list = []
    joins = False
    for token in tokens:
        if token == ")":
            break
        if token == "+":
            joins = True
            continue
        node = _sequence(tokens) if token == "(" else token
        nodes.append(_joined(nodes.pop(), node) if joins else node)
        joins = False
    return nodes


def _joined(before: str | list | _Parts, node: str | list) -> _Parts:
    parts = before.nodes if isinstance(before, _Parts) else (before,)
    return _Parts((*parts, node))


def _words(node: str | list) -> list[str]:
    return [node] if isinstance(node, str) else [word for word in node if isinstance(word, str)]


def _solve(
    text: str,
    ours: tuple[tuple[str, ...], ...],
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
) -> dict[str, int]:
    """Return the size of every axis; each dimension of ours may have one that is not given."""
    known = {name: int(name) for dim in ours for name in dim if name.isdigit()}
    for dim, size in zip(ours, shape, strict=True):
        if len(dim) > 1:
            known |= {name: sizes[name] for name in dim if name in sizes}
        open_names = [name for name in dim if name not in known]
        rest = math.prod(known[name] for name in dim if name in known)
        if len(open_names) == 1 and size % rest == 0:
            known[open_names[0]] = size // rest
        elif open_names or rest != size:
            raise UserError(
                f"layout {text!r}: dimension ({' '.join(dim)}) of {size} does not fit "
                f"{ {name: known.get(name, '?') for name in dim} }"
            )
    return dict(sizes) | known


def _dim(text: str, node: str | list | _Parts, names: list[str], known: dict[str, int]) -> Dim:
    factors: list[Axis | Pick | Part] = []
    for factor in node if isinstance(node, list) else [node]:
        if factors and isinstance(factors[-1], Part):
            raise UserError(f"layout {text!r}: parts joined by + must come last")
        if isinstance(factor, _Parts):
            factors.append(_part(text, factor, names, known))
        elif "/" in factor:
            index, count = map(int, factor.split("/"))
            factors.append(Pick(index, count))
        else:
            factors.append(_axis(text, factor, known))
    return tuple(factors)


def _part(text: str, parts: _Parts, names: list[str], known: dict[str, int]) -> Part:
    start, total, chosen = 0, 0, None
    for part in parts.nodes:
        axes = tuple(_axis(text, name, known) for name in _words(part))
        if any(axis.name in names and not axis.name.isdigit() for axis in axes):
            start, chosen = total, axes
        total += math.prod(axis.size for axis in axes)
    if chosen is None:
        raise UserError(f"layout {text!r}: none of the parts joined by + is on our side")
    return Part(start, total, chosen)


def _axis(text: str, name: str, known: dict[str, int]) -> Axis:
    if name.isdigit():
        return Axis(name, int(name))
    if name not in known:
        raise UserError(f"layout {text!r} needs the size of {name!r}")
    return Axis(name, known[name])
