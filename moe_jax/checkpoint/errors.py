"""The errors of checkpoints. Nothing else lives here."""

from moe_jax.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be written, found, trusted or fitted to the wanted arrays."""


class DamagedCheckpointError(CheckpointError):
    """The files of one checkpoint are not what was saved; another may still be good."""
