"""Names of files in a model's directory; links are tested in test_directory.py."""

import pytest

from moe_jax.interop.inside import file_inside, is_named


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
