"""Names of files in a model's directory; links are tested in test_directory.py."""

import pytest

from moe_jax.errors import UserError
from moe_jax.safe_paths import file_inside, is_named, read_json


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", ".", "..", "a/b", "", None, 3])
def test_only_plain_names_are_followed(tmp_path, name):
    with pytest.raises(ValueError, match=r"index says so: .* is not a plain file name"):
        file_inside(tmp_path, name, "index says so: ")


def test_a_file_is_found_and_a_missing_one_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert file_inside(tmp_path, "a.json") == tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"b\.json: the file is missing"):
        file_inside(tmp_path, "b.json")
    assert [is_named(tmp_path, n) for n in ("a.json", "b.json", "dangling")] == [True, False, True]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\udc80\ud800", "loop"])
def test_what_cannot_be_opened_is_named(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        ValueError, match=r"index says so: '.* cannot be opened \(.*give a"
    ) as error:
        file_inside(tmp_path, name, "index says so: ")
    assert len(str(error.value)) < 600


def test_blobs_belong_to_snapshots_only(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "f").write_text("{}")
    for parent in ("snapshots", "models"):
        directory = tmp_path / parent / "0123abcd"
        directory.mkdir(parents=True)
        (directory / "a.json").symlink_to("../../blobs/f")
    assert file_inside(tmp_path / "snapshots" / "0123abcd", "a.json").read_text() == "{}"
    with pytest.raises(ValueError, match=r"a\.json: it is a link to .*outside"):
        file_inside(tmp_path / "models" / "0123abcd", "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json is not JSON: "),
        ("[" * 100_000, r"a\.json is not JSON: "),
        ("\xff", r"a\.json is not JSON: "),
        ("[1]", r"a\.json holds a list, it must be a JSON object"),
    ],
)
def test_a_file_that_holds_no_json_object_is_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
