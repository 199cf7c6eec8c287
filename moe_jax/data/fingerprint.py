"""Refuses to continue a run with other data than it began with.

What a fingerprint holds is decided by the data set (`PackedSequences`, `SyntheticSequences`);
saving it beside a checkpoint is the caller's business.
"""

from collections.abc import Mapping

from moe_jax.errors import UserError

Fingerprint = Mapping[str, str | int]


def require_same_data(saved: Fingerprint, current: Fingerprint) -> None:
    """Compare the fingerprint of a checkpoint with that of the data at hand.

    Args:
        saved: the checkpoint's.
        current: of the data that a run would go on with.

    Raises:
        UserError: they differ; names each part with both values.
    """
    differences = [
        f"{part} was {saved.get(part)!r}, is {current.get(part)!r}"
        for part in sorted({*saved, *current})
        if saved.get(part) != current.get(part)
    ]
    if differences:
        raise UserError(
            f"the data differs from what this run was trained on ({'; '.join(differences)}): "
            "restore the former data, tokenizer and settings (the source `stdlib` changes with "
            "the Python version), or start a new run in another working directory"
        )
