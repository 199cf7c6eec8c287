"""The files of configs/: they run, say what was chosen in the schema's order, and stay as they are.

`golden/` holds what each resolves to, so that a changed default shows in a diff.
"""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from support import golden
from support.places import CONFIGS

from moe_jax.config import check, load_config, override
from moe_jax.config.load import known_keys
from moe_jax.planner.search.scaling import scaled

FILES = pytest.mark.parametrize("path", golden.FILES, ids=lambda path: path.stem)


def dotted(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")


def test_there_are_files():
    assert len(golden.FILES) >= 9


@FILES
def test_file_is_a_config_that_can_run(path):
    config = load_config(path)
    assert config.name == path.stem
    check(config)


@FILES
def test_keys_stand_in_the_order_of_the_schema(path):
    keys = list(dotted(tomllib.loads(path.read_text())))
    assert keys == [key for key in known_keys() if key in keys]


@FILES
def test_file_opens_with_what_it_is_for(path):
    assert path.read_text().startswith("# ")


@FILES
def test_file_resolves_to_its_golden_file(path):
    expected = (golden.GOLDEN / path.name).read_text(encoding="utf-8")
    assert golden.golden_text(path) == expected, (
        "read the difference; if it is meant: .venv/bin/python tests/support/golden.py"
    )


def test_no_golden_file_is_left_over():
    assert [path.name for path in sorted(golden.GOLDEN.iterdir())] == [p.name for p in golden.FILES]


@FILES
def test_golden_file_is_complete_and_loads_as_the_file_does(path):
    saved = golden.GOLDEN / path.name
    assert list(dotted(tomllib.loads(saved.read_text()))) == list(known_keys())
    assert load_config(saved) == load_config(path)


def test_golden_files_are_rewritten_by_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "GOLDEN", tmp_path / "golden")
    golden.rewrite()
    (tmp_path / "golden" / "gone.toml").touch()
    (tmp_path / "golden" / "quickstart.toml").write_text("seed = 1\n")
    golden.rewrite()
    for path in golden.FILES:
        assert (tmp_path / "golden" / path.name).read_text() == golden.golden_text(path)
    assert len(list((tmp_path / "golden").iterdir())) == len(golden.FILES)


@pytest.mark.parametrize(
    ("name", "devices", "by"),
    [
        ("paper_ep32", 32, "experts"),
        ("paper_ep64", 64, "experts"),
        ("paper_ep128", 128, "experts"),
        ("paper_ep16_x8", 128, "replicas"),
    ],
)
def test_larger_configs_of_the_paper_are_its_smallest_scaled(name, devices, by):
    bigger = scaled(load_config(CONFIGS / "paper_ep16.toml"), devices, by)
    assert load_config(CONFIGS / f"{name}.toml") == override(bigger, [f"name={name}"])
