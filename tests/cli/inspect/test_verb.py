"""What `inspect` says about checkpoints: of a run of two stages, of none, and of damaged ones."""

import json
import os
import shutil
import subprocess
import sys
import tomllib

import jax
import orbax.checkpoint as ocp
import pytest
from support.training_cases import session_on_first_devices, small_config, steps_of

from moe_jax.checkpoint import CheckpointError, Checkpoints, read_contents
from moe_jax.checkpoint.tree import SEPARATOR
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.config import override, write_config
from moe_jax.data import make_loaders
from moe_jax.model.flops import total_parameters
from moe_jax.training.resume import run_info
from moe_jax.training.state import init_state

LAYOUT = (
    "mesh.pipe=2",
    "mesh.expert=2",
    "mesh.tensor=2",
    "pipeline.microbatches=2",
    "model.moe.router.bias_update_rate=0.01",
    "name=two-stages",
)
W_UP = "params/stacks.0.unit.blocks.0.moe.experts.w_up_edf"


@pytest.fixture(scope="module")
def session():
    return session_on_first_devices(small_config(*LAYOUT))


@pytest.fixture(scope="module")
def saved(session, tmp_path_factory):
    """Workdir of a run with checkpoints of steps 4 and 8, of an untrained state."""
    workdir = tmp_path_factory.mktemp("run")
    write_config(session.config, workdir)
    loader = make_loaders(session.config, session.batch_sharding()).train
    state = init_state(session.skeleton, steps_of(session).optimizer, session.mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step in (4, 8):
            checkpoints.save(step, state, run_info(session.config, loader))
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def inspect(capsys):
    """Runs `moe-jax inspect ARGUMENTS`; returns exit code, output and errors."""

    def call(*arguments):
        code = main(["inspect", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def damage(workdir, step):
    """Changes one byte of the largest file of array data; its size stays."""
    files = (workdir / f"checkpoints/{step:08d}/arrays/d").iterdir()
    path = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("part", [".", "checkpoints", "checkpoints/00000008"])
def test_newest_checkpoint_is_shown_wherever_the_path_points(saved, inspect, part):
    code, text, _ = inspect(saved / part)
    assert code == exit_codes.OK
    for fact in (
        "good, shown below",
        "Checkpoint of step 8",
        "two-stages",
        "8 of 20",
        "seed 0, step 8: sequence 128 comes next",
        "2 layers (moe), d_model 32",
        "8 per layer, top-2",
        "pipe 2 x expert 2 x tensor 2: 8 devices; sharding: optimizer zero, dense fsdp",
        "2 stages x 1 virtual, 2 microbatches",
        "saved from pipe 2 x expert 2 x tensor 2: 8 devices, by 1 process",
        "optax ",
        "Complete: sizes of all ",
    ):
        assert fact in text


def test_arrays_are_listed_with_shape_split_and_pieces(saved, inspect):
    lines = inspect(saved)[1].splitlines()
    (line,) = [line for line in lines if line.strip().startswith(W_UP)]
    for fact in ("2 x 8 x 32 x 64", "float32", "128 KiB", "8 pieces of 1 x 4 x 32 x 32"):
        assert fact in line
    assert "dim 0 / 2 (pipe), dim 1 / 2 (expert), dim 3 / 2 (tensor)" in line


def test_json_totals_are_those_of_the_model(saved, session, inspect):
    code, text, _ = inspect(saved, "--json", "--step", 4)
    found = json.loads(text)
    assert code == exit_codes.OK
    assert (found["step"], found["steps"], found["rejected"]) == (4, [4, 8], [])
    assert (found["seed"], found["next_sequence"], found["writers"]) == (0, 64, 1)
    groups = {
        group: sum(array["bytes"] for array in found["arrays"] if array["group"] == group)
        for group in ("parameters", "optimiser state", "buffers", "counters")
    }
    parameters = 4 * total_parameters(session.config)
    # Two moments each; AdamW and its schedule count steps; a bias for each expert of 2 layers.
    assert groups == {
        "parameters": parameters,
        "optimiser state": 2 * parameters + 2 * 4,
        "buffers": 2 * 8 * 4,
        "counters": 3 * 4,
    }


def test_what_is_read_is_what_orbax_reads(saved):
    """Its notes are read without it, because it starts devices: they must mean the same."""
    contents = read_contents(saved / "checkpoints", 8)
    known = ocp.PyTreeCheckpointHandler().metadata(contents.path / "arrays").tree
    assert len(contents.arrays) == len(jax.tree.leaves(known))
    for array in contents.arrays:
        level = known
        for key in array.name.split(SEPARATOR):
            level = level[key]
        assert array.shape == level.shape
        assert array.dtype == str(level.dtype)
        assert array.chunk == tuple(level.storage.chunk_shape)
        assert list(array.mesh.values()) == list(level.sharding.shape)
        assert list(array.mesh) == list(level.sharding.axis_names)
        entries = [
            (e,) if isinstance(e, str) else tuple(e or ()) for e in level.sharding.partition_spec
        ]
        assert list(array.spec) == entries


def test_config_is_the_one_that_was_saved(saved, session, inspect):
    code, text, _ = inspect(saved, "--config")
    assert code == exit_codes.OK
    assert tomllib.loads(text)["mesh"] == session.config.mesh.model_dump()
    assert override(session.config, []) == session.config
    assert tomllib.loads(text)["name"] == "two-stages"


@pytest.mark.slow
def test_no_device_is_started(saved):
    """Neither the CPU's nor any other: a login node can look at any checkpoint."""
    script = (
        "import sys; from jax._src import xla_bridge; from moe_jax.cli.main import main; "
        "code = main(['inspect', sys.argv[1], '--verify']); "
        "assert not xla_bridge.backends_are_initialized(); sys.exit(code)"
    )
    arguments = [sys.executable, "-c", script, str(saved)]
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == exit_codes.OK, done.stderr
    assert "Good: the digests of all " in done.stdout


def test_damage_is_found_by_those_who_ask(copy, inspect):
    damage(copy, 8)
    assert inspect(copy)[0] == exit_codes.OK
    code, text, _ = inspect(copy, "--verify")
    assert code == exit_codes.USER_ERROR
    assert "Damaged: arrays/d/" in text
    assert "does not match the digest" in text
    code, text, _ = inspect(copy, "--verify", "--json")
    assert code == exit_codes.USER_ERROR
    assert json.loads(text)["verified"] == "digests"
    assert len(json.loads(text)["faults"]) == 1
    assert inspect(copy, "--verify", "--step", 4)[0] == exit_codes.OK


@pytest.mark.parametrize("name", ["_sharding", "array_metadatas/process_0"])
@pytest.mark.parametrize("byte", [b"x", b"\xff", b"["])
def test_damaged_notes_of_orbax_are_named(copy, inspect, name, byte):
    note = copy / "checkpoints/00000008/arrays" / name
    note.write_bytes(byte * note.stat().st_size)
    code, text, errors = inspect(copy)
    assert (code, text) == (exit_codes.USER_ERROR, "")
    assert f"00000008/arrays/{name} is unreadable (" in errors
    assert "look for damage with moe-jax inspect --verify" in errors
    code, text, errors = inspect(copy, "--verify")
    assert (code, text) == (exit_codes.USER_ERROR, "")
    assert "is damaged: " in errors
    assert f"arrays/{name}: its content does not match the digest" in errors
    assert inspect(copy, "--verify", "--step", 4)[0] == exit_codes.OK


def test_note_of_another_form_is_named(copy, inspect):
    note = copy / "checkpoints/00000008/arrays/_sharding"
    note.write_bytes(b"[]".ljust(note.stat().st_size))
    code, _, errors = inspect(copy)
    assert code == exit_codes.USER_ERROR
    assert "arrays/_sharding is unreadable (AttributeError" in errors


def test_manifest_nested_too_deeply_is_unreadable(copy, inspect):
    (copy / "checkpoints/00000008/manifest.json").write_text("[" * 100_000)
    code, text, _ = inspect(copy)
    assert code == exit_codes.OK
    assert "Checkpoint of step 4" in text
    assert "manifest.json: unreadable (" in text


def test_incomplete_checkpoint_is_listed_with_its_reason_and_passed_over(copy, inspect):
    (copy / "checkpoints/00000008/arrays/_METADATA").unlink()
    code, text, _ = inspect(copy)
    assert code == exit_codes.OK
    assert "Checkpoint of step 4" in text
    assert "no checkpoint: arrays/_METADATA: missing" in text
    code, _, errors = inspect(copy / "checkpoints" / "00000008")
    assert code == exit_codes.USER_ERROR
    assert "step 8 in " in errors
    assert "is damaged: arrays/_METADATA: missing" in errors
    shutil.rmtree(copy / "checkpoints/00000004")
    code, _, errors = inspect(copy)
    assert code == exit_codes.USER_ERROR
    assert "no good checkpoint in " in errors
    assert "arrays/_METADATA: missing" in errors


def test_path_that_is_no_checkpoint_is_named(saved, inspect, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "renamed").mkdir()
    shutil.copy(saved / "checkpoints/00000004/manifest.json", tmp_path / "renamed")
    for name, words in (
        ("absent", "absent does not exist: give the working directory of a run"),
        ("file", "file is not a directory: give the working directory"),
        ("empty", "empty holds no checkpoints: give the working directory"),
        ("renamed", "renamed is no checkpoint: it is not named like one"),
    ):
        code, text, errors = inspect(tmp_path / name)
        assert (code, text) == (exit_codes.USER_ERROR, "")
        assert words in errors


def test_step_that_is_not_there_is_named_with_those_that_are(saved, inspect):
    code, _, errors = inspect(saved, "--step", 5)
    assert code == exit_codes.USER_ERROR
    assert "no good checkpoint of step 5" in errors
    assert "which holds: 4, 8" in errors
    code, _, errors = inspect(saved / "checkpoints/00000008", "--step", 4)
    assert code == exit_codes.USER_ERROR
    assert "--step 4 and " in errors


def test_checkpoint_of_another_program_shows_its_arrays(inspect, tmp_path):
    """Saved through `Checkpoints` with whatever info, from one device."""
    state = {"params": {"w": jax.numpy.ones((3, 5), jax.numpy.bfloat16)}}
    with Checkpoints(tmp_path / "own") as checkpoints:
        checkpoints.save(1, state, {"note": "mine"})
    code, text, _ = inspect(tmp_path / "own")
    assert code == exit_codes.OK
    assert "none was saved with it" in text
    assert "3 x 5" in text
    assert "30 B" in text
    code, _, errors = inspect(tmp_path / "own", "--config")
    assert code == exit_codes.USER_ERROR
    assert "was saved without a config" in errors


def test_config_of_another_version_is_no_obstacle(inspect, tmp_path):
    state = {"params": {"w": jax.numpy.ones((3, 5))}}
    with Checkpoints(tmp_path / "own") as checkpoints:
        checkpoints.save(1, state, {"config": 'name = "old"\nformer = 1\n'})
    code, text, _ = inspect(tmp_path / "own")
    assert code == exit_codes.OK
    assert "this version cannot read it" in text
    assert "former" in text
    assert inspect(tmp_path / "own", "--config")[1] == 'name = "old"\nformer = 1\n'


def test_contents_refuse_a_directory_without_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="no good checkpoint in"):
        read_contents(tmp_path, None)


def test_a_hugging_face_directory_is_told_how_to_import_it(tmp_path, inspect):
    (tmp_path / "config.json").write_text("{}")
    code, text, errors = inspect(tmp_path)
    assert (code, text) == (exit_codes.USER_ERROR, "")
    assert f"`moe-jax convert from-hf {tmp_path} OUT`, then inspect OUT" in errors
