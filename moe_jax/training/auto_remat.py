"""`train.remat = "auto"` on the devices at hand: their memory, and programs compiled for them.

Which sets are tried, in which order, is `remat.py`. The program of the chosen set is the one that
the run then uses.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax

from moe_jax.checkpoint import Restored
from moe_jax.checkpoint.agree import gather
from moe_jax.config import Config, parse_config
from moe_jax.config.remat import AUTO
from moe_jax.data.batch import abstract_batch
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.skeleton import Skeleton
from moe_jax.session import Session
from moe_jax.training.changes import same_layout
from moe_jax.training.memory_limit import memory_limit
from moe_jax.training.remat import choose, describe, keeping, sets, size_text
from moe_jax.training.state import abstract_state
from moe_jax.training.step import make_steps
from moe_jax.workdir import CONFIG

#: Of a checkpoint's info: keys of its config that the run chose by itself.
_CHOSEN = "chosen"


@dataclass(frozen=True)
class Resolved:
    """A session whose config says what is kept for backward.

    Attributes:
        session: of the run.
        step: the compiled training step; None where nothing was left open, and nothing compiled.
        lines: what was tried and chosen.
    """

    session: Session
    step: Any
    lines: list[str]


def resolve_remat(session: Session, restored: Restored | None) -> Resolved:
    """Choose what `train.remat = "auto"` keeps. A collective.

    A run that goes on under the same layout keeps what it chose before, as long as that fits.

    Args:
        session: of the run.
        restored: the checkpoint that it goes on from; None for a fresh start.

    Raises:
        UserError: nothing fits.
    """
    config = session.config
    if config.train.remat != AUTO:
        return Resolved(session, None, [])
    limit = memory_limit(jax.local_devices())
    limit = replace(limit, bytes=min(gather(limit.bytes)))

    def build(remat: str) -> tuple[Any, int]:
        return _compiled(_keeping(session, remat))

    before = _chosen_before(restored, config)
    if before is not None:
        step, peak = build(before)
        if peak <= limit.bytes:
            line = f"train.remat = auto: {before}, as before ({size_text(peak)} compiled)"
            return Resolved(_keeping(session, before), step, [line])
    chosen = choose(sets(config, session.topology), limit.bytes, build)
    return Resolved(
        _keeping(session, chosen.remat),
        chosen.program,
        [*describe(chosen, config), f"  to go by is {limit.text}; {CONFIG} has {chosen.remat}"],
    )


def left_open(config: Config) -> dict[str, Any]:
    """Return what a checkpoint's `info` says of a config that left the choice open.

    Args:
        config: as the user wrote it.
    """
    return {_CHOSEN: ["train.remat"]} if config.train.remat == AUTO else {}


def _chosen_before(restored: Restored | None, config: Config) -> str | None:
    """Return what an earlier part of the run chose, if it ran under this layout."""
    if restored is None or not restored.info.get(_CHOSEN):
        return None
    saved = parse_config(restored.info["config"])
    return saved.train.remat if same_layout(saved, config) else None


def _keeping(session: Session, remat: str) -> Session:
    """Return a session whose config names what is kept."""
    return replace(session, skeleton=Skeleton(keeping(session.config, remat)))


def _compiled(session: Session) -> tuple[Any, int]:
    """Return the compiled step of a session, and what it takes of the fullest device, in bytes."""
    steps = make_steps(session.skeleton, session.parallel)
    state = abstract_state(steps.skeleton, steps.optimizer, session.mesh)
    step = steps.jit_train(compiler_options(session.platform))
    compiled = step.lower(state, abstract_batch(session.config, session.mesh)).compile()
    stats: Any = compiled.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    taken = stats.argument_size_in_bytes + results + stats.temp_size_in_bytes
    return compiled, max(gather(taken))
