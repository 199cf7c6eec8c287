"""What pydantic finds wrong, in our words."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_jax.serve.complaints import MAX_COMPLAINTS, MAX_SHOWN, explain


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["a", "b"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | list[str]
    count: Annotated[int, Field(ge=1, le=9)] = 1
    parts: list[Part] = []


def told(**body):
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "text", "text is missing: it is required"),
        # One sentence for a union, not one per member.
        ({"text": 3}, "text", "text (3) must be a string or a list"),
        ({"text": "a", "count": 0}, "count", "count (0) must be 1 or more"),
        ({"text": "a", "count": 10}, "count", "count (10) must be 9 or less"),
        ({"text": "a", "count": True}, "count", "count (true) must be an integer"),
        (
            {"text": "a", "parts": [{"kind": "a"}, {"kind": "c"}]},
            "parts",
            "parts[1].kind (\"c\") must be 'a' or 'b'",
        ),
        (
            {"text": "a", "parts": [{"kind": "a", "x": 1}]},
            "parts",
            "parts[0].x is not supported: remove it",
        ),
        ({"text": "a", "parts": [{}]}, "parts", "parts[0].kind is missing: it is required"),
    ],
)
def test_a_complaint_names_the_place_the_value_and_the_rule(body, param, message):
    refusal = told(**body)
    assert (refusal.status, refusal.param, refusal.message) == (400, param, message)


def test_only_the_first_wrong_parameter_is_told():
    assert "count" not in told(text=3, count=0).message


def test_a_body_that_is_all_wrong_is_told_in_part():
    parts = told(text="a", parts=[{"kind": str(n)} for n in range(50)]).message.split("; ")
    assert len(parts) == MAX_COMPLAINTS
    assert parts[0].startswith("parts[0].kind")


def test_a_long_value_is_shown_in_part():
    value = {"x": "y" * 1000}
    message = told(text=value).message
    assert json.dumps(value)[:MAX_SHOWN] + "...)" in message
    assert len(message) < 2 * MAX_SHOWN
