"""The schema as a whole: every section is one, has defaults that run, and values for "off"."""

import types
import typing
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from moe_jax.axes import AXES
from moe_jax.config import Config, check, override
from moe_jax.config.load import ConfigError, known_keys
from moe_jax.config.schema import MeshConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from moe_jax.config.section import Section


def sections(section: type[Section] = Config) -> Iterator[type[Section]]:
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from sections(field.annotation)


SECTIONS = pytest.mark.parametrize("section", [*sections()], ids=lambda section: section.__name__)


def test_defaults_can_run():
    check(Config(), device_count=1)


@SECTIONS
def test_every_section_is_frozen_strict_and_says_what_it_is(section):
    assert section.model_config == Section.model_config
    assert section.__doc__


@SECTIONS
def test_every_field_has_a_default_and_none_is_optional(section):
    for name, field in section.model_fields.items():
        assert not field.is_required(), name
        kind = typing.get_origin(field.annotation)
        assert kind not in (typing.Union, types.UnionType), name


def test_keys_are_those_of_a_resolved_config():
    resolved = Config().model_dump(mode="json")
    keys = []

    def walk(table: dict, prefix: str = "") -> None:
        for name, value in table.items():
            keys.append(prefix + name)
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(resolved)
    assert keys == list(known_keys())


@pytest.mark.parametrize(
    ("assignment", "rule"),
    [
        (f"seed={2**32}", "less than 4294967296"),
        ("optimizer.beta1=1.0", "less than 1"),
        ("schedule.final_fraction=1.5", "less than or equal to 1"),
        ("data.validation_fraction=1.0", "less than 1"),
        ("train.loss_chunk=0", "greater than or equal to 1"),
        ("checkpoint.keep=0", "greater than or equal to 1"),
        ("exchange.capacity_factor=0.0", "greater than 0"),
        ("metrics.writers=['printer']", "'tensorboard' or 'wandb'"),
    ],
)
def test_ranges_of_single_fields(assignment, rule):
    with pytest.raises(ConfigError, match=rule):
        override(Config(), [assignment])


def test_ends_of_ranges_are_inside():
    assert override(Config(), [f"seed={2**32 - 1}", "optimizer.beta1=0.0"]).seed == 2**32 - 1
    assert ScheduleConfig(final_fraction=1.0).final_fraction == 1
    assert TrainConfig(profile_steps=(0, 1)).profile_steps == (0, 1)
    assert OptimizerConfig(clip_norm=0.0).clip_norm == 0


def test_mesh_axes_are_those_of_the_mesh():
    assert tuple(MeshConfig.model_fields) == AXES


def test_types_are_not_converted():
    with pytest.raises(ValidationError, match="valid integer"):
        MeshConfig(expert="8")
