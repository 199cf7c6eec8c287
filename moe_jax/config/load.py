"""TOML text to a validated `Config` and back, with `key=value` overrides on the way.

Every problem with a file or an override is reported here as a `ConfigError`. What the fields are
is `schema.py`; rules that span several fields are `rules.py`.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from moe_jax.config.schema import Config
from moe_jax.config.section import Section
from moe_jax.errors import UserError
from moe_jax.workdir import CONFIG

#: What is known elsewhere and refused here, and why.
_REFUSED = {
    ("model.moe.router.selection", "expert_choice"): (
        ": experts that choose tokens compare a token with later ones, so a causal model would be "
        "trained on its own future and could not generate"
    )
}
_ARRAY_OF_ONE = re.compile(r"= \[\n +([^\n]*),\n\]")


class ConfigError(UserError):
    """A configuration that cannot run; the message lists each problem with its remedy."""

    def __init__(self, origin: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{origin}:" + "".join(f"\n  - {problem}" for problem in problems))


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file into a `Config`; keys the file lacks take the schema's defaults.

    Args:
        path: the TOML file.
        overrides: assignments such as `"model.moe.top_k=2"`, applied in order. A value is read
            as TOML where it is valid TOML (`4`, `[10, 12]`, `"7"`), otherwise as a string.

    Raises:
        ConfigError: the file is missing or is not TOML, a key is unknown (the message names the
            nearest known one), or a value has the wrong type or range. All problems are listed.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"cannot read the configuration {path}", [_of_directory(path)])
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = f"{reason}: pass the path of a readable TOML file"
        raise ConfigError(f"cannot read the configuration {path}", [remedy]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML", [f"not UTF-8 text: {error}"]) from error
    return parse_config(text, overrides, origin=str(path))


def parse_config(
    text: str, overrides: Iterable[str] = (), *, origin: str = "the saved configuration"
) -> Config:
    """Read TOML text into a `Config`, like `load_config`; `origin` names it in errors."""
    try:
        raw = tomllib.loads(text)
    # The last is what the parser raises at values nested too deeply.
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin} is not valid TOML", [str(error)]) from error
    for assignment in _listed(overrides):
        _assign(raw, assignment)
    return _validate(raw, f"invalid configuration {origin}")


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return `config` with `key=value` assignments applied (see `load_config`)."""
    raw = config.model_dump(mode="json")
    for assignment in _listed(assignments):
        _assign(raw, assignment)
    return _validate(raw, "invalid override")


def _listed(assignments: Iterable[str]) -> Iterable[str]:
    """Return overrides; a single text would be taken letter by letter, a mapping by its keys."""
    if isinstance(assignments, str | Mapping):
        problem = f'overrides are a list such as ["model.moe.top_k=2"], got {assignments!r}'
        raise ConfigError("invalid override", [problem])
    return assignments


def dump_config(config: Config) -> str:
    """Write a complete TOML file, in the schema's order: loading it gives an equal `Config`."""
    text = tomli_w.dumps(config.model_dump(mode="json"))
    # The writer gives each item a line; strings hold no line breaks there, they are escaped.
    return _ARRAY_OF_ONE.sub(r"= [\1]", text)


def write_config(config: Config, workdir: Path) -> None:
    """Keep the resolved config in a working directory, replacing an older one atomically.

    To be called once the run may go on: a refused start must not change what is there.

    Args:
        config: what runs, written whole.
        workdir: made if it is not there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f"{CONFIG}.partial"
    partial.write_text(dump_config(config), encoding="utf-8")
    partial.replace(workdir / CONFIG)


def known_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every section and field of the schema, in order."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def _of_directory(path: Path) -> str:
    """Say which TOML file was meant where a directory was given."""
    own = path / CONFIG
    if own.is_file():
        return f"it is a directory: pass its configuration, {own}"
    if (path / "config.json").is_file():
        return (
            "it is a Hugging Face directory: import it with "
            f"`moe-jax convert from-hf {path} OUT`, then pass OUT/{CONFIG}"
        )
    return f"it is a directory without a {CONFIG}: pass the path of a TOML file"


def _assign(raw: dict[str, Any], assignment: str) -> None:
    if not isinstance(assignment, str):
        problem = f'overrides are a list of texts such as "model.moe.top_k=2", got {assignment!r}'
        raise ConfigError("invalid override", [problem])
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        problem = f'expected KEY=VALUE such as "model.moe.top_k=2", got {assignment!r}'
        raise ConfigError("invalid override", [problem])
    value = _parse_value(text.strip())
    if isinstance(value, dict):
        problem = f"{key.strip()}: a table cannot be assigned at once; set its keys one by one"
        raise ConfigError("invalid override", [problem])
    table = raw
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            problem = f"{key.strip()}: {'.'.join(parts[:depth])} is a value, it has no keys"
            raise ConfigError("invalid override", [problem])
    if isinstance(table.get(parts[-1]), dict):
        problem = f"{key.strip()} is a section; set one of its keys: {', '.join(table[parts[-1]])}"
        raise ConfigError("invalid override", [problem])
    table[parts[-1]] = value


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    # A value with a line break could smuggle in a second key: then it is a string.
    return parsed["value"] if len(parsed) == 1 else text


def _validate(raw: dict[str, Any], origin: str) -> Config:
    problems = list(_unrepresentable(raw))
    if problems:
        raise ConfigError(origin, problems)
    try:
        # Through JSON: strict mode takes arrays as tuples there, and only there.
        return Config.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        problems = [_describe(details) for details in error.errors(include_url=False)]
        raise ConfigError(origin, problems) from None


def _unrepresentable(value: Any, key: str = "") -> Iterator[str]:
    """Yield a problem for each TOML value that no field of the schema can hold."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unrepresentable(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unrepresentable(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} = {value}: must be a finite number"
    elif not isinstance(value, str | int | float):
        yield f"{key} = {value}: dates and times are not used here; write a string in quotes"


def _describe(details: ErrorDetails) -> str:
    key = _dotted(details["loc"])
    if details["type"] == "extra_forbidden":
        return f"unknown key {key}: the nearest known key is {_nearest(key)}"
    shown = json.dumps(details["input"])
    if details["type"] == "model_type":
        fields = [name for name in known_keys() if name.rpartition(".")[0] == key]
        return f"{key} = {shown}: is a section; set one of its keys: {', '.join(fields)}"
    rule = details["msg"].replace("Input should be", "must be").replace("Tuple", "the array")
    rule = rule.removeprefix("Value error, ")
    hint = ""
    if details["type"] == "literal_error":
        hint = _REFUSED.get((key, str(details["input"])), "")
    if details["type"] == "string_type":
        hint = " (quote it: in a shell, --set " + f"'{key}={json.dumps(shown.strip(chr(34)))}')"
    if details["type"] == "tuple_type":
        rule, hint = "must be an array", f" such as [{shown}]"
    return f"{key} = {shown}: {rule}{hint}"


def _dotted(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _nearest(key: str) -> str:
    known = list(known_keys())
    parent, _, name = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    # The right name in the wrong section is the commonest slip after a typo.
    elsewhere = [k for k in known if k.rpartition(".")[2] == name]
    return (close or elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.0))[0]
