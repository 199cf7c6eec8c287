"""The configuration of a run: schema, TOML files, overrides and cross-field rules."""

from moe_jax.config.load import (
    ConfigError,
    dump_config,
    load_config,
    override,
    parse_config,
    write_config,
)
from moe_jax.config.rules import check
from moe_jax.config.schema import Config

__all__ = [
    "Config",
    "ConfigError",
    "check",
    "dump_config",
    "load_config",
    "override",
    "parse_config",
    "write_config",
]
