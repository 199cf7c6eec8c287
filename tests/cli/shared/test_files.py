"""Where verbs may write, how JSON looks, and configs of the source tree."""

import json

import pytest
from support.places import ROOT

from moe_jax.cli.shared import files
from moe_jax.errors import UserError


def test_writable_are_new_and_old_files_in_directories_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").touch()
    files.require_writable(None, tmp_path / "new", tmp_path / "old", files.Path("plain.json"))


@pytest.mark.parametrize("place", ["", "none/file"])
def test_the_first_that_cannot_be_written_is_named(tmp_path, place):
    path = tmp_path / place
    with pytest.raises(UserError, match=f"cannot write {path}: give a file in a directory"):
        files.require_writable(tmp_path / "good", path)


def test_json_is_for_people_and_ends_its_line(tmp_path):
    path = tmp_path / "out.json"
    files.write_json(path, {"a": [1, 2]})
    assert path.read_text().startswith('{\n  "a": [')
    assert path.read_text().endswith("}\n")
    assert json.loads(path.read_text()) == {"a": [1, 2]}


def test_source_tree_is_this_one():
    assert files.SOURCE_TREE == ROOT
    path = files.config_of_source_tree("quickstart.toml", "moe-jax claims")
    assert path == ROOT / "configs" / "quickstart.toml"


def test_without_a_source_tree_the_path_must_be_given(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "SOURCE_TREE", tmp_path)
    with pytest.raises(UserError, match=r"as in moe-jax claims path/to/configs/a\.toml"):
        files.config_of_source_tree("a.toml", "moe-jax claims")
