"""What is wrong with a request's parameters, in our words: the value, and what it must be.

Which parameters there are, and what may be in them, is `parameters.py`.
"""

import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from moe_jax.serve.errors import ApiError, invalid

#: How many things that are wrong with one parameter are told; a body can be all wrong.
MAX_COMPLAINTS = 3
#: Characters of a value that are shown; enough to know it again.
MAX_SHOWN = 60
#: What a value must be, by pydantic's type of error, with its limits.
RULES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "value_error": "{error}",
}


def explain(error: ValidationError) -> ApiError:
    """Return one refusal for the first parameter that is wrong."""
    errors = error.errors(include_url=False)
    name = str(errors[0]["loc"][0])
    first: dict[str, ErrorDetails] = {}
    rules: dict[str, dict[str, None]] = {}
    # A union complains about a value once per member.
    for one in (one for one in errors if one["loc"][0] == name):
        place = _place(one["loc"])
        first.setdefault(place, one)
        rules.setdefault(place, {})[_rule(one)] = None
    complaints = [_complaint(place, first[place], list(rules[place])) for place in first]
    return invalid("; ".join(complaints[:MAX_COMPLAINTS]), name)


def _complaint(place: str, details: ErrorDetails, rules: list[str]) -> str:
    if details["type"] == "missing":
        return f"{place} is missing: it is required"
    if details["type"] == "extra_forbidden":
        return f"{place} is not supported: remove it"
    return f"{place} ({_shown(details['input'])}) must be {' or '.join(rules)}"


def _rule(details: ErrorDetails) -> str:
    rule = RULES.get(details["type"])
    if rule is None:
        return details["msg"].removeprefix("Input should be ")
    return rule.format(**details.get("ctx", {})).removeprefix("must be ")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _place(location: tuple[int | str, ...]) -> str:
    """Names of a union's members (`str`, `list[str]`) say nothing to a client; the rest does."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in location[1:]
        if isinstance(part, int) or (part.isidentifier() and part != "str")
    ]
    return "".join([str(location[0]), *parts])
