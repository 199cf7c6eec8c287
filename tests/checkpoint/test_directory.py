"""What counts as a checkpoint, and what is never deleted."""

import pytest

from moe_jax.checkpoint import directory, manifest
from moe_jax.checkpoint.errors import CheckpointError


def add(root, step, distrusted=()):
    staging = directory.stage(root, step, distrusted)
    (staging / "data").write_text(f"step {step}")
    directory.commit(root, manifest.build(staging, step, {}, {}))


def reasons(root):
    return {entry.path.rsplit("/", 1)[-1]: entry.reason for entry in directory.scan(root).rejected}


def test_directory_that_does_not_exist_holds_nothing(tmp_path):
    assert directory.scan(tmp_path / "absent") == ([], [])


def test_steps_are_listed_in_numeric_order(tmp_path):
    for step in (5, 123456789, 1234567890):
        add(tmp_path, step)
    assert directory.scan(tmp_path).steps == [5, 123456789, 1234567890]


def test_strangers_are_rejected_with_reasons(tmp_path):
    add(tmp_path, 5)
    (tmp_path / "00000007").mkdir()
    (tmp_path / "8").mkdir()
    (tmp_path / "00000009").write_text("a file")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "tmp.00000011").mkdir()
    (tmp_path / "00000012.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "00000005").joinpath("data").touch()
    assert directory.scan(tmp_path).steps == [5]
    found = reasons(tmp_path)
    assert found["00000007"] == "an empty directory"
    assert "step 8 would be" in found["8"]
    assert found["00000009"] == "not a directory"
    assert found["notes.txt"] == "not named like a checkpoint"
    assert found["tmp.00000011"] == "a save or a deletion that has not finished"
    assert found["00000012.orbax-checkpoint-tmp"] == "not named like a checkpoint"


def test_staged_files_without_commit_are_not_a_checkpoint(tmp_path):
    staging = directory.stage(tmp_path, 3, ())
    (staging / "data").write_text("x")
    manifest.write(staging, manifest.build(staging, 3, {}, {}))
    assert directory.scan(tmp_path).steps == []


def test_missing_manifest_and_renamed_directory_are_rejected(tmp_path):
    add(tmp_path, 5)
    add(tmp_path, 6)
    (tmp_path / "00000005" / manifest.NAME).unlink()
    (tmp_path / "00000006").rename(tmp_path / "00000099")
    assert directory.scan(tmp_path).steps == []
    assert "manifest.json: missing" in reasons(tmp_path)["00000005"]
    assert "says step 6" in reasons(tmp_path)["00000099"]


def test_stage_removes_leftovers_of_dead_processes(tmp_path):
    (tmp_path / "tmp.00000001").mkdir()
    (tmp_path / "tmp.00000001" / "half").write_text("x")
    (tmp_path / "tmp.removed.00000000").write_text("x")
    staging = directory.stage(tmp_path, 2, ())
    assert [path.name for path in tmp_path.iterdir()] == [staging.name]


@pytest.mark.parametrize("step", [3, 5])
def test_saving_at_or_before_a_good_step_is_refused(tmp_path, step):
    add(tmp_path, 5)
    with pytest.raises(CheckpointError, match=rf"cannot save step {step} .* holds step 5"):
        directory.stage(tmp_path, step, ())


def test_distrusted_step_is_replaced(tmp_path):
    add(tmp_path, 5)
    (tmp_path / "00000005" / "old").touch()
    add(tmp_path, 5, distrusted=(5,))
    assert directory.scan(tmp_path) == ([5], [])
    assert not (tmp_path / "00000005" / "old").exists()


def test_empty_numeric_directory_is_replaced(tmp_path):
    (tmp_path / "00000005").mkdir()
    add(tmp_path, 5)
    assert directory.scan(tmp_path) == ([5], [])


def test_prune_keeps_the_newest_good_and_all_rejected(tmp_path):
    for step in (1, 2, 3, 4):
        add(tmp_path, step)
    (tmp_path / "00000004" / "data").unlink()
    directory.prune(tmp_path, 1, distrusted={3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000003", "00000004"]
