"""What differs between the config of a checkpoint and that of the run that goes on from it.

Three kinds of keys. Those of the layout decide where things are computed, never what: a run may
change them at will. What decides which rows a step reads, or the shape of a saved array, may not
change: `resume.py` and the checkpoint refuse that. Everything else may, and then trains differently
from here on, which nobody should do unawares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moe_jax.config import Config
from moe_jax.config.load import known_keys
from moe_jax.config.section import Section

#: Sections and keys that leave every step's loss as it is, up to rounding.
LAYOUT = (
    "mesh",
    "sharding",
    "pipeline",
    "runtime",
    "exchange.transport",
    "exchange.streams",
    "exchange.capacity_factor",
    "model.attention.implementation",
    "model.attention.query_block",
    "train.remat",
    "train.scan_layers",
    "train.loss_chunk",
)
#: What decides which tokens meet in one round of an exchange, so which ones are dropped by those
#: that drop.
SPLITS_TOKENS = ("mesh", "pipeline", "exchange", "train.accumulation")
#: What a run says, keeps and shows of itself.
HOUSEKEEPING = (
    "name",
    "checkpoint",
    "metrics",
    "data.prefetch",
    "train.validation_every",
    "train.validation_batches",
    "train.max_skipped",
    "train.profile_steps",
)


@dataclass(frozen=True)
class Changes:
    """Changed keys, each as "mesh.expert was 8, is 4"."""

    layout: tuple[str, ...]
    training: tuple[str, ...]


def changes(saved: Config, now: Config) -> Changes:
    """Compare two configs; housekeeping is in neither list."""
    layout, training = [], []
    for key, before, after in _differences(saved, now):
        text = f"{key} was {_shown(before)}, is {_shown(after)}"
        if _is_layout(key, saved, now):
            layout.append(text)
        elif not _within(key, HOUSEKEEPING):
            training.append(text)
    return Changes(tuple(layout), tuple(training))


def same_layout(saved: Config, now: Config) -> bool:
    """Whether both compute everything in the same places, whatever each keeps for backward."""
    keys = [key for key, *_ in _differences(saved, now) if key != "train.remat"]
    return not any(_within(key, (*LAYOUT, *SPLITS_TOKENS)) for key in keys)


def _is_layout(key: str, saved: Config, now: Config) -> bool:
    never_drops = saved.exchange.overflow == now.exchange.overflow == "rounds"
    if _within(key, SPLITS_TOKENS) and not never_drops:
        return False
    if key == "train.accumulation":
        # A balance loss over the batch is one per microbatch.
        return now.model.moe.router.balance_loss != "global"
    return _within(key, LAYOUT)


def _within(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in sections)


def _differences(saved: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    for key in known_keys():
        before, after = (_value(config, key) for config in (saved, now))
        if not isinstance(before, Section) and before != after:
            yield key, before, after


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
