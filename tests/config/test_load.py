"""Reading, overriding and writing configurations; cross-field rules are in test_rules.py."""

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from moe_jax.config import (
    Config,
    ConfigError,
    dump_config,
    load_config,
    override,
    write_config,
)
from moe_jax.config.load import known_keys
from moe_jax.workdir import CONFIG


@pytest.fixture
def write(tmp_path):
    def write_toml(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write_toml


def dotted(table: dict, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in table.items():
        keys.add(prefix + name)
        if isinstance(value, dict):
            keys |= dotted(value, f"{prefix}{name}.")
    return keys


def test_missing_keys_take_defaults(write):
    config = load_config(write("seed = 7\n[model.moe]\ntop_k = 1\n"))
    assert config == override(Config(), ["seed=7", "model.moe.top_k=1"])
    assert config.model.d_model == Config().model.d_model


def test_dump_round_trips_every_key(write):
    config = override(
        Config(), ["model.layers=['dense', 'moe']", "optimizer.eps=1e-12", "data.paths=['ü']"]
    )
    text = dump_config(config)
    assert dotted(tomllib.loads(text)) == set(known_keys())
    assert load_config(write(text)) == config


@pytest.mark.parametrize("paths", [(), ("a",), ("a", "b"), ("= [\n    1,\n]",), ("[", "]")])
def test_dump_writes_arrays_that_read_as_they_were(write, paths):
    config = override(Config(), [f"data.paths={json.dumps(paths)}"])
    text = dump_config(config)
    assert load_config(write(text)).data.paths == paths
    assert ("paths = [\n" in text) == (len(paths) > 1)


def test_config_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        Config().seed = 1


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("mesh.expert=4", lambda c: c.mesh.expert == 4),
        ("exchange.transport=local", lambda c: c.exchange.transport == "local"),
        ("train.profile_steps=[10,12]", lambda c: c.train.profile_steps == (10, 12)),
        ("name=foo", lambda c: c.name == "foo"),
        ('name="12"', lambda c: c.name == "12"),
        ("name=a=b", lambda c: c.name == "a=b"),
        ("name=1\nseed=3", lambda c: c.name == "1\nseed=3" and c.seed == 0),
        ("optimizer.learning_rate=1", lambda c: c.optimizer.learning_rate == 1.0),
        (" mesh.data = 2 ", lambda c: c.mesh.data == 2),
    ],
)
def test_override_values_are_typed(write, assignment, read):
    assert read(load_config(write(""), [assignment]))


def test_later_override_wins(write):
    assert load_config(write("seed = 1"), ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (
            "model.moe.topk=2",
            "unknown key model.moe.topk: the nearest known key is model.moe.top_k",
        ),
        ("modle.d_model=2", "unknown key modle: the nearest known key is model"),
        ("model.top_k=2", "nearest known key is model.moe.top_k"),
        ("mesh.experts=2", "nearest known key is mesh.expert"),
        ("model.moe.top_k=0", "model.moe.top_k = 0: must be greater than or equal to 1"),
        ("model.moe.top_k=2.5", "model.moe.top_k = 2.5: must be a valid integer"),
        ("model.moe.top_k=two", 'model.moe.top_k = "two": must be a valid integer'),
        ("model.moe.top_k=true", "model.moe.top_k = true: must be a valid integer"),
        ("exchange.transport=pigeon", "exchange.transport = \"pigeon\": must be 'auto', 'local'"),
        ("model.moe.router.selection=expert_choice", "must be 'token_choice': experts that choose"),
        ("model.moe.router.selection=expert_choice", "trained on its own future"),
        ("model.layers=['moe','mou']", "model.layers[1] = \"mou\": must be 'dense' or 'moe'"),
        ("train.profile_steps=[1,2,3]", "at most 2 items"),
        ("data.paths=a.txt", 'data.paths = "a.txt": must be an array such as ["a.txt"]'),
        ("name=12", "--set 'name=\"12\"'"),
        ("optimizer.eps=inf", "optimizer.eps = inf: must be a finite number"),
        ("name=2026-01-01", "write a string in quotes"),
        ("exchange=local", "set one of its keys: exchange.transport"),
        ("mesh={expert=2}", "set its keys one by one"),
        ("seed.x=1", "seed is a value, it has no keys"),
        ("seed", "expected KEY=VALUE"),
        ("mesh..data=1", "expected KEY=VALUE"),
    ],
)
def test_bad_override_names_key_value_and_rule(write, assignment, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(write("seed = 1"), [assignment])
    assert expected in str(caught.value)


def test_section_cannot_be_replaced_in_a_resolved_config():
    with pytest.raises(ConfigError, match="mesh is a section; set one of its keys: pipe, data"):
        override(Config(), ["mesh=3"])


def test_all_problems_of_a_file_are_listed_at_once(write):
    path = write('seed = -1\ncolour = "red"\n[mesh]\ndata = "2"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "seed = -1",
        'mesh.data = "2"',
        "unknown key colour",
    ]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml.*\n.*No such file"):
        load_config(tmp_path / "absent.toml")


def test_a_directory_is_told_which_file_was_meant(tmp_path):
    with pytest.raises(ConfigError, match=r"a directory without a config\.toml: pass the path"):
        load_config(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match=r"moe-jax convert from-hf .* OUT`, then pass OUT/config"):
        load_config(tmp_path)
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match=r"pass its configuration, .*config\.toml$"):
        load_config(tmp_path)


def test_malformed_toml_is_located(write):
    with pytest.raises(ConfigError, match=r"run\.toml is not valid TOML:\n.*line 2"):
        load_config(write("seed = 1\n[mesh\n"))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe9"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_values_nested_too_deeply_are_refused_with_the_files_name(write):
    deep = "[" * 20_000
    with pytest.raises(ConfigError, match=r"run\.toml is not valid TOML"):
        load_config(write(f"name = {deep}\n"))
    with pytest.raises(ConfigError, match=r"train\.steps"):
        load_config(write(""), [f"train.steps={deep}"])


def test_the_config_of_a_run_is_written_whole_and_replaced_at_once(tmp_path):
    workdir = tmp_path / "new" / "run"
    write_config(Config(seed=1), workdir)
    write_config(Config(seed=2), workdir)
    assert [path.name for path in workdir.iterdir()] == [CONFIG]
    assert load_config(workdir / CONFIG) == Config(seed=2)


@pytest.mark.parametrize("overrides", ["train.steps=4", {"train.steps": 4}, [4]])
def test_overrides_that_are_no_list_of_texts_are_refused(overrides):
    with pytest.raises(ConfigError, match=r"overrides are a list"):
        override(Config(), overrides)
