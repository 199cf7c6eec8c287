from pathlib import Path

import pytest

from moe_jax.interop.files.staging import staged


def test_a_staged_directory_appears_at_the_end(tmp_path):
    out = tmp_path / "new" / "out"
    with staged(out) as partial:
        (partial / "file").write_text("x")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["file"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path):
    def write() -> None:
        with staged(tmp_path / "out") as partial:
            (partial / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_output_is_refused_untouched(tmp_path, kind):
    out = tmp_path / "out"
    match kind:
        case "directory":
            out.mkdir()
        case "file":
            out.write_text("precious")
        case _:
            out.symlink_to("nowhere")
    with pytest.raises(ValueError, match="out exists and is never overwritten"), staged(out):
        raise AssertionError("nothing may be written")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "out"

    def write() -> None:
        with staged(out):
            out.mkdir()
            (out / "precious").write_text("x")

    with pytest.raises(ValueError, match="out exists"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "precious").exists()


def test_what_a_killed_process_left_is_named(tmp_path, caplog):
    (tmp_path / ".out.partial-1234").mkdir()
    with staged(tmp_path / "out"):
        pass
    assert ".out.partial-1234: an unfinished output" in caplog.text
    assert (tmp_path / ".out.partial-1234").exists()


@pytest.mark.parametrize(
    "name", ["file/out", "file/deeper/out", "x" * 250, "y/" + "x" * 300, "a\0"]
)
def test_where_nothing_can_be_made_the_output_and_the_reason_are_named(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ValueError, match=r"cannot be made beside it \(.+\): give another") as error,
        staged(tmp_path / name),
    ):
        raise AssertionError("nothing may be written")
    assert repr(str(tmp_path / name)) in str(error.value)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a system without /proc")
def test_an_output_in_proc_is_refused():
    with (
        pytest.raises(ValueError, match=r"'/proc/out': .* cannot be made"),
        staged(Path("/proc/out")),
    ):
        raise AssertionError("nothing may be written")
