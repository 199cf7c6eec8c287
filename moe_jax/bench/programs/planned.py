"""What a plan says of a training step, read from the file that `moe-jax plan --json` wrote."""

import json
from dataclasses import fields
from pathlib import Path

from moe_jax.errors import UserError
from moe_jax.planner.report.figures import Times


def read_planned(file: Path) -> Times:
    """Return the times of a planned training step, compiled: XLA's own timeline.

    Args:
        file: what `moe-jax plan CONFIG --mode train --json FILE` wrote.

    Raises:
        UserError: it is another file, of another program, or of a GPU that XLA has no times for.
    """
    advice = f"write it by moe-jax plan CONFIG --mode train --json {file}"
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        mode, step = plan["mode"], plan["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no plan ({type(error).__name__}): {advice}") from error
    if mode != "train" or step is None:
        raise UserError(f"{file} is a plan of mode {mode} without times of a step: {advice}")
    return Times(**{field.name: step["total"][field.name] for field in fields(Times)})
