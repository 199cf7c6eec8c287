"""Damaged checkpoints: fall back when asked for the latest, refuse when asked for that one."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from support.checkpoint_cases import (
    INFO,
    abstract,
    assert_same_bits,
    data_file,
    flip_bit,
    make_state,
    mesh_of,
)

from moe_jax.checkpoint import CheckpointError, Checkpoints
from moe_jax.checkpoint.manifest import NAME


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 10, 15 and 20."""
    root = tmp_path_factory.mktemp("saved")
    with Checkpoints(root, keep=5) as checkpoints:
        for step in (10, 15, 20):
            checkpoints.save(step, make_state(step, mesh_of(8)), INFO | {"step": step})
    return root


@pytest.fixture
def root(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def wanted():
    return abstract(make_state(0, mesh_of(8)))


def truncate(step_dir):
    path = data_file(step_dir)
    path.write_bytes(path.read_bytes()[:-7])
    return path.name


def delete(step_dir):
    path = data_file(step_dir)
    path.unlink()
    return path.name


def flip(step_dir):
    path = data_file(step_dir)
    flip_bit(path)
    return path.name


def delete_manifest(step_dir):
    (step_dir / NAME).unlink()
    return NAME


def empty(step_dir):
    shutil.rmtree(step_dir)
    step_dir.mkdir()
    return "empty directory"


DAMAGES = [truncate, delete, flip, delete_manifest, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_latest_falls_back_and_says_what_it_rejected(root, wanted, damage, caplog):
    words = damage(root / "00000020")
    with Checkpoints(root) as checkpoints:
        restored = checkpoints.restore(wanted)
        assert checkpoints.steps() == [10, 15]
    assert restored.step == 15
    assert restored.info["step"] == 15
    assert_same_bits(restored.state, make_state(15, mesh_of(8)))
    (entry,) = restored.rejected
    assert entry.path == str(root / "00000020")
    assert words in entry.reason
    assert words in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_step_asked_for_by_number_is_refused(root, wanted, damage):
    words = damage(root / "00000020")
    with Checkpoints(root) as checkpoints:
        with pytest.raises(CheckpointError, match=r"step 20 .*damaged") as caught:
            checkpoints.restore(wanted, step=20)
        assert words in str(caught.value)
        assert checkpoints.restore(wanted, step=10).step == 10


def test_two_damaged_steps_in_a_row(root, wanted):
    flip(root / "00000020")
    truncate(root / "00000015")
    with Checkpoints(root) as checkpoints:
        restored = checkpoints.restore(wanted)
    assert restored.step == 10
    assert len(restored.rejected) == 2


def test_all_damaged_is_an_error_not_a_fresh_start(root, wanted):
    for step in (10, 15, 20):
        flip(root / f"{step:08d}")
    with (
        Checkpoints(root) as checkpoints,
        pytest.raises(CheckpointError, match="no good checkpoint") as caught,
    ):
        checkpoints.restore(wanted)
    assert all(f"{step:08d}" in str(caught.value) for step in (10, 15, 20))


def test_training_goes_on_after_a_fall_back_and_replaces_the_damaged_step(root, wanted):
    flip(root / "00000020")
    with Checkpoints(root, keep=2) as checkpoints:
        assert checkpoints.restore(wanted).step == 15
        checkpoints.save(17, make_state(17, mesh_of(8)), {})
        checkpoints.wait()
        assert checkpoints.steps() == [15, 17]
        checkpoints.save(20, make_state(20, mesh_of(8)), {})
        checkpoints.wait()
        assert checkpoints.steps() == [17, 20]
        assert_same_bits(checkpoints.restore(wanted).state, make_state(20, mesh_of(8)))


def test_sizes_alone_notice_truncation(root, wanted):
    truncate(root / "00000020")
    with Checkpoints(root, verify="sizes") as checkpoints:
        assert checkpoints.restore(wanted).step == 15


def test_unreadable_arrays_are_judged_by_their_digests(root, wanted, monkeypatch):
    name = flip(root / "00000020")
    with Checkpoints(root, verify="sizes") as checkpoints:
        read = checkpoints._store.read

        def stumble(path, wanted):
            if "00000020" in str(path):
                raise ValueError("bad chunk")
            return read(path, wanted)

        monkeypatch.setattr(checkpoints._store, "read", stumble)
        restored = checkpoints.restore(wanted)
    assert restored.step == 15
    assert name in restored.rejected[0].reason


def test_failure_to_read_intact_files_is_an_error_not_a_fall_back(root, wanted, monkeypatch):
    with Checkpoints(root) as checkpoints:

        def fail(path, wanted):
            raise MemoryError("no room")

        monkeypatch.setattr(checkpoints._store, "read", fail)
        with pytest.raises(CheckpointError, match=r"step 20 .* intact.*MemoryError: no room"):
            checkpoints.restore(wanted)
        assert checkpoints.steps() == [10, 15, 20]


def test_misfit_is_an_error_not_a_fall_back(root, wanted):
    old = wanted["params"]["w"]
    wanted["params"]["w"] = jax.ShapeDtypeStruct(old.shape, jnp.int32, sharding=old.sharding)
    with (
        Checkpoints(root) as checkpoints,
        pytest.raises(CheckpointError, match=r"step 20 .*params/w \(saved float32.*int32"),
    ):
        checkpoints.restore(wanted)


def test_absent_step_is_refused_with_the_steps_there_are(root, wanted):
    with (
        Checkpoints(root) as checkpoints,
        pytest.raises(CheckpointError, match=r"step 12 .* holds: 10, 15, 20"),
    ):
        checkpoints.restore(wanted, step=12)


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "tmp.00000001").mkdir()])
def test_no_checkpoint_yet_is_none_or_an_error(tmp_path, wanted, make):
    make(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(wanted) is None
        with pytest.raises(CheckpointError, match="no good checkpoint"):
            checkpoints.restore(wanted, missing="error")
        with pytest.raises(CheckpointError, match="no good checkpoint"):
            checkpoints.info()


def test_only_an_empty_numeric_directory_is_an_error(tmp_path, wanted):
    (tmp_path / "00000030").mkdir()
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="an empty directory"),
    ):
        checkpoints.restore(wanted)
