"""What a checkpoint holds, read without its arrays; `inspect` is tested in tests/cli/inspect."""

import pytest
from support.checkpoint_cases import INFO, data_file, flip_bit, make_state, mesh_of

from moe_jax.checkpoint import CheckpointError, Checkpoints, StoredArray, locate, read_contents
from moe_jax.workdir import CHECKPOINTS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Checkpoints of steps 2 and 5 in a working directory."""
    root = tmp_path_factory.mktemp("run") / CHECKPOINTS
    with Checkpoints(root) as checkpoints:
        for step in (2, 5):
            checkpoints.save(step, make_state(step, mesh_of(2, 4)), INFO)
    return root


def test_newest_is_read_unless_a_step_is_named(root):
    assert read_contents(root, None).step == 5
    contents = read_contents(root, 2)
    assert (contents.step, contents.path, contents.info) == (2, root / "00000002", INFO)
    assert contents.faults == ()


def test_arrays_have_shape_dtype_mesh_and_split(root):
    arrays = {array.name: array for array in read_contents(root, None).arrays}
    weight = arrays["params/w"]
    assert (weight.shape, weight.dtype, weight.size) == ((16, 24), "float32", 4 * 16 * 24)
    assert dict(weight.mesh) == {"a": 2, "b": 4}
    assert weight.spec[0] == ("a",)
    assert arrays["params/half"].dtype == "bfloat16"
    assert arrays["count"].shape == ()


def test_files_are_counted_with_their_bytes(root):
    contents = read_contents(root, 5)
    files = [p for p in (root / "00000005").rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert contents.files == len(files)
    assert contents.file_bytes == sum(file.stat().st_size for file in files)
    assert contents.writers == 1


@pytest.mark.parametrize(
    ("shape", "chunk", "pieces"), [((4, 6), (2, 6), 2), ((5, 6), (2, 4), 6), ((), (), 1)]
)
def test_pieces_cover_an_array(shape, chunk, pieces):
    assert StoredArray("x", shape, "int8", chunk, {}, ()).chunks == pieces
    assert StoredArray("x", shape, "int8", None, {}, ()).chunks is None


def test_a_run_its_checkpoints_or_one_step_may_be_named(root):
    assert locate(root.parent) == (root, None)
    assert locate(root) == (root, None)
    assert locate(root / "00000002") == (root, 2)


@pytest.mark.parametrize("name", ["", "none", "file"])
def test_what_holds_no_checkpoints_is_refused_with_what_would(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="give the working directory of a run, its checkpoin"):
        locate(tmp_path / name)


def test_damage_shows_once_contents_are_compared(root, tmp_path):
    state = make_state(1, mesh_of(8))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, INFO)
    flip_bit(data_file(tmp_path / "00000001"))
    assert read_contents(tmp_path, 1, "sizes").faults == ()
    (fault,) = read_contents(tmp_path, 1, "digests").faults
    assert "its content does not match the digest" in fault
