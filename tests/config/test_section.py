"""Sections: frozen, without unknown keys, and without silent conversions."""

import pytest
from pydantic import ValidationError

from moe_jax.config.section import (
    Natural,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
)


class Own(Section):
    """One field of each range."""

    positive: Positive = 1
    natural: Natural = 0
    positive_float: PositiveFloat = 1.0
    non_negative_float: NonNegativeFloat = 0.0


@pytest.mark.parametrize(
    ("field", "least", "below"),
    [
        ("positive", 1, 0),
        ("natural", 0, -1),
        ("positive_float", 1e-300, 0.0),
        ("non_negative_float", 0.0, -1e-300),
    ],
)
def test_ranges_begin_where_their_names_say(field, least, below):
    assert getattr(Own(**{field: least}), field) == least
    with pytest.raises(ValidationError, match="greater than"):
        Own(**{field: below})


@pytest.mark.parametrize("value", ["2", 2.0, True, None])
def test_nothing_but_an_integer_is_an_integer(value):
    with pytest.raises(ValidationError, match="valid integer"):
        Own(positive=value)


def test_an_integer_is_a_float():
    assert Own(positive_float=3).positive_float == 3.0


def test_sections_are_frozen_and_hashable():
    assert hash(Own()) == hash(Own())
    with pytest.raises(ValidationError, match="frozen"):
        Own().natural = 1


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Own(naturel=1)
