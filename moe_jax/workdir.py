"""The working directory of a run: what lies there besides checkpoints and metrics."""

from pathlib import Path

from moe_jax.config import Config, dump_config

CONFIG = "config.toml"


def write_config(config: Config, workdir: Path) -> None:
    """Keep the resolved config beside the run, replacing a file atomically.

    To be called once the run may go on: a refused start must not change what is there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f"{CONFIG}.partial"
    partial.write_text(dump_config(config))
    partial.replace(workdir / CONFIG)
