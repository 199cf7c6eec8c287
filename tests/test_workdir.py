"""Names in a working directory: told apart, plain, and what the package's parts write."""

from pathlib import Path, PurePosixPath

import pytest

from moe_jax import workdir
from moe_jax.errors import UserError
from moe_jax.workdir import run_directory

NAMES = {k: v for k, v in vars(workdir).items() if k.isupper()}


def test_names_are_plain_and_differ():
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(PurePosixPath(name).name == name for name in NAMES.values())


def test_every_name_is_explained():
    assert workdir.__doc__
    for name in NAMES.values():
        assert f"\n    {name}" in workdir.__doc__


def test_a_run_lives_where_it_is_told_or_under_its_name(tmp_path):
    assert run_directory(None, "one") == Path("runs", "one")
    assert run_directory(str(tmp_path), "one") == tmp_path
    assert run_directory(tmp_path / "new" / "deep", "one") == tmp_path / "new" / "deep"


def test_an_empty_path_is_not_the_current_directory():
    with pytest.raises(UserError, match=r"empty path: give a directory, or \. for here"):
        run_directory("", "one")


@pytest.mark.parametrize(
    ("below", "said"), [("", "is a file"), ("x/y", "leads through .*, a file")]
)
def test_a_path_through_a_file_is_refused(below, said, tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match=said):
        run_directory(file / below, "one")
    assert file.read_text() == "precious"
