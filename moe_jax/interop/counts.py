"""Checks the numbers of layers and experts against the tensors that are there.

Everything is built layer by layer and expert by expert, so that a wrong number is refused first.
Whether each tensor fits is `tensors/match.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_jax.errors import UserError
from moe_jax.interop.config_json import family_of
from moe_jax.interop.files.shard import TensorEntry
from moe_jax.interop.table.family import Family
from moe_jax.interop.table.setting import Count, Fields


def check_counts(
    path: Path, config_json: Mapping[str, Any], tensors: Mapping[str, TensorEntry]
) -> None:
    """Refuse a config.json with more layers or experts than its directory has.

    Args:
        path: the directory.
        config_json: its config.json.
        tensors: what its files hold, by name.

    Raises:
        UserError: there are more, or they are no whole numbers; names the field and its value.
    """
    family = family_of(config_json)
    fields = Fields(family.name, config_json, family.defaults)
    there = {
        "num_layers": ("layers", _layers(family, tensors)),
        "moe.num_experts": ("experts", _experts(family, tensors)),
    }
    for setting in family.settings:
        if not isinstance(setting, Count) or setting.ours not in there:
            continue
        asked = setting.read(fields)[setting.ours]
        what, most = there[setting.ours]
        if asked > most:
            raise UserError(
                f"{path}: config.json: {setting.name_in(fields)} = {asked!r:.40}, but the "
                f"directory has tensors of {most} {what}: one of them is of another model, or "
                "shards are missing; fetch both again"
            )


def _layers(family: Family, tensors: Mapping[str, TensorEntry]) -> int:
    """Return how many numbers of layers the names have."""
    before = {row.theirs.split("{layer}")[0] for row in family.tensors if "{layer}" in row.theirs}
    numbered = re.compile(f"(?:{'|'.join(map(re.escape, before))})([0-9]+)[.]")
    return len({match[1] for name in tensors if (match := numbered.match(name))})


def _experts(family: Family, tensors: Mapping[str, TensorEntry]) -> int:
    """Return how many experts the largest router knows: a row for each.

    Without routers it is the number of tensors: no expert has less than one.
    """
    names = [row.theirs for row in family.tensors if row.ours == "moe.router.w_de"]
    routers = re.compile("|".join(re.escape(n).replace(r"\{layer\}", "[0-9]+") for n in names))
    rows = [n for name, e in tensors.items() if routers.fullmatch(name) for n in e.shape[:1]]
    return max(rows, default=len(tensors))
