"""What a layer keeps for backward, as `train.remat` writes it: one word, or names joined by "+".

Backward finds what was kept and computes all else again. How JAX is told is
`model/remat/kept.py`; which set fits a device is found in `training/remat.py`.
"""

import difflib
from collections.abc import Iterable

from moe_jax.errors import UserError

#: What may be kept of a layer besides its input; in the order in which a set is written.
KEEPABLE: dict[str, str] = {
    "attention": "attention's result, and what its kernel's gradient needs",
    "residual": "the residual stream between attention and MLP",
    "dispatch": "tokens received from other devices",
    "experts": "the experts' hidden values",
    "qkv": "attention's queries, keys and values",
    "mlp": "hidden values of dense MLPs and of shared experts",
}
#: Keep the most valuable that fits the device; keep everything; keep nothing.
AUTO, EVERYTHING, NOTHING = "auto", "none", "full"


def kept_names(remat: str) -> tuple[str, ...]:
    """Return what a set keeps, of `KEEPABLE`; all of it for "none", which keeps more besides.

    Args:
        remat: a value of `train.remat` other than "auto".

    Raises:
        UserError: another one.
    """
    if remat == EVERYTHING:
        return tuple(KEEPABLE)
    if remat == NOTHING:
        return ()
    names = remat.split("+")
    if unknown := [name for name in names if name not in KEEPABLE]:
        raise UserError(_unknown(unknown[0]))
    return tuple(name for name in KEEPABLE if name in names)


def remat_of(names: Iterable[str]) -> str:
    """Return the value of `train.remat` that keeps these names."""
    chosen = set(names)
    return "+".join(name for name in KEEPABLE if name in chosen) or NOTHING


def written_in_order(remat: str) -> str:
    """Return the one way to write a value of `train.remat`.

    Raises:
        UserError: it is none.
    """
    return remat if remat in (AUTO, EVERYTHING) else remat_of(kept_names(remat))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, KEEPABLE, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    return (
        f"must be {AUTO}, {EVERYTHING} (keep everything), {NOTHING} (keep nothing), or what to "
        f"keep, joined by +, of {', '.join(KEEPABLE)}; {name!r} is not among these{hint}"
    )
