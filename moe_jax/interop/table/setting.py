"""Kinds of entries in the two-way table between a config.json and our `ModelConfig`.

Simple kinds are here; those that compute something are in `attention.py`, `layers.py` and
`rope.py`. Fields of ours are written from `model` on: `attention.heads`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError

Values = dict[str, Any]


class Fields:
    """The fields of a config.json over the values that absent ones have in this family."""

    def __init__(self, family: str, given: Mapping[str, Any], defaults: Mapping[str, Any]):
        self.family = family
        self.given = given
        self._all = {**defaults, **given}

    def __getitem__(self, key: str) -> Any:
        if key not in self._all:
            raise UserError(
                f"config.json: {key} is missing and family {self.family!r} has no usual value for "
                "it: add the field"
            )
        return self._all[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default` where neither the file nor the family has one."""
        return self._all.get(key, default)

    def whole(self, key: str, least: int = 1, most: int | None = None) -> int:
        """Return the value of a field that must be a whole number.

        Args:
            key: of the field.
            least: the smallest that is allowed.
            most: the largest; None for no limit.

        Raises:
            UserError: it is not; names the field and its value.
        """
        value = self[key]
        if type(value) is not int or value < least or (most is not None and value > most):
            end = "" if most is None else f" to {most}"
            raise self.refuse(key, value, f"it must be a whole number from {least}{end}")
        return value

    def refuse(self, key: str, value: Any, reason: str) -> UserError:
        """Return the error for a field that changes the computation and is not supported."""
        return UserError(
            f"config.json: {key} = {value!r:.500} is not supported for family {self.family!r}: "
            f"{reason}"
        )


class Setting(Protocol):
    """One entry of the table."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The fields of config.json that it reads."""
        ...

    def read(self, fields: Fields) -> Values:
        """Return values of ours by field."""
        ...

    def write(self, model: ModelConfig) -> Values:
        """Return fields of config.json.

        Raises:
            UserError: this model is nothing that the fields can say.
        """
        ...


@dataclass(frozen=True)
class Same:
    """A value that both sides write alike; `null` of theirs is `null` of ours."""

    theirs: str
    ours: str
    null: Any = None
    #: Other names that published files use for it.
    aliases: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.theirs, *self.aliases)

    def name_in(self, fields: Fields) -> str:
        """Return which of the names a file uses."""
        return next((key for key in self.keys if key in fields.given), self.theirs)

    def read(self, fields: Fields) -> Values:
        name = self.name_in(fields)
        value = fields[name]
        if value is None and self.null is None:
            raise fields.refuse(name, value, "it must have a value")
        return {self.ours: self.null if value is None else value}

    def write(self, model: ModelConfig) -> Values:
        value = value_of(model, self.ours)
        return {self.theirs: None if self.null is not None and value == self.null else value}


@dataclass(frozen=True)
class Count(Same):
    """A whole number; checked here, where the error can say what the file calls it."""

    least: int = 1

    def read(self, fields: Fields) -> Values:
        return {self.ours: fields.whole(self.name_in(fields), self.least)}


@dataclass(frozen=True)
class OneOf:
    """A value that the two sides write differently; it may stand in several fields of ours."""

    theirs: str
    ours: tuple[str, ...]
    #: Theirs -> ours. Of several that mean the same of ours, the first is written.
    values: tuple[tuple[Any, Any], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.theirs,)

    def read(self, fields: Fields) -> Values:
        value = fields[self.theirs]
        for theirs, ours in self.values:
            if type(value) is type(theirs) and value == theirs:
                return dict.fromkeys(self.ours, ours)
        known = ", ".join(repr(theirs) for theirs, _ in self.values)
        raise fields.refuse(self.theirs, value, f"known are {known}")

    def write(self, model: ModelConfig) -> Values:
        value = value_of(model, self.ours[0])
        for theirs, ours in self.values:
            if ours == value:
                return {self.theirs: theirs}
        raise UserError(f"model.{self.ours[0]} = {value!r} has no {self.theirs}")


@dataclass(frozen=True)
class Always:
    """What every model of the family has, whatever its config.json says."""

    values: Mapping[str, Any] = field(hash=False)
    keys: tuple[str, ...] = ()

    def read(self, fields: Fields) -> Values:
        return dict(self.values)

    def write(self, model: ModelConfig) -> Values:
        return {}


@dataclass(frozen=True)
class Only:
    """A field that changes the computation, of which one value is supported; absent is fine."""

    theirs: str
    allowed: Any
    reason: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.theirs,)

    def read(self, fields: Fields) -> Values:
        value = fields.get(self.theirs, self.allowed)
        if value is not None and value != self.allowed:
            raise fields.refuse(self.theirs, value, self.reason)
        return {}

    def write(self, model: ModelConfig) -> Values:
        return {self.theirs: self.allowed}


def value_of(model: ModelConfig, path: str) -> Any:
    """Return the value of a field of ours, such as `attention.heads`."""
    return reduce(getattr, path.split("."), model)
