"""Which devices a collective connects: the forms in which HLO prints groups.

What the collective moves is read in `hlo.py`.
"""

import math
import re

import numpy as np

from moe_jax.errors import UserError

Groups = tuple[tuple[int, ...], ...]

_LISTS = re.compile(r"(?:replica_groups|source_target_pairs)=(\{(?:\{[\d,]*\},?)*\})")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
#: Axes with sizes, the devices' order where it is not that of their numbers, the axes in a group.
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r" ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'(\w+)'=(\d+)")
#: An axis, or the part of it that has `size` and lies inside parts of `before`: 'a' or 'a':(2)4.
_PART = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def device_groups(attributes: str) -> Groups:
    """Read `replica_groups` or `source_target_pairs` of a printed instruction.

    Returns:
        The groups; for a permute, its (source, target) pairs; () for a group of all devices.

    Raises:
        UserError: for a form that is not known here.
    """
    if found := _LISTS.search(attributes):
        return tuple(_numbers(row) for row in re.findall(r"\{([\d,]+)\}", found[1]))
    if found := _IOTA.search(attributes):
        return _rows(_order(found[2], found[3]).reshape(_numbers(found[1])))
    found = _MESH.search(attributes)
    if found and not _AXIS.sub("", found[1]).strip(", "):
        sizes = {name: int(size) for name, size in _AXIS.findall(found[1])}
        order = _order(found[2] or str(math.prod(sizes.values())), found[3])
        return _over_axes(sizes, order, found[4])
    raise UserError(f"no device groups in a form known here: {attributes[:200]!r}")


def _order(shape: str, transposed: str | None) -> np.ndarray:
    """Return the devices' numbers in the order that [2,4]T(1,0) means."""
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(transposed)) if transposed else ids


def _over_axes(sizes: dict[str, int], order: np.ndarray, over: str) -> Groups:
    """Group along some axes (or parts of axes) of a mesh."""
    ids = order.reshape(tuple(sizes.values()))
    names = list(sizes)
    inner = []
    for name, before, size in _PART.findall(over):
        if before:
            at = names.index(name)
            parts = (int(before), int(size), ids.shape[at] // (int(before) * int(size)))
            ids = ids.reshape(*ids.shape[:at], *parts, *ids.shape[at + 1 :])
            names[at : at + 1] = [f"{name} before", f"{name}:{size}", f"{name} after"]
            name = f"{name}:{size}"
        inner.append(name)
    places = [names.index(name) for name in inner]
    rows = np.moveaxis(ids, places, range(-len(places), 0))
    return _rows(rows.reshape(-1, math.prod(ids.shape[place] for place in places)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _rows(ids: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in ids)
