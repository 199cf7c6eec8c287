"""Weights that a run starts from. Whole commands are in `tests/cli/test_convert.py`."""

import logging

import jax
import numpy as np
import pytest
from support.model_directories import BF16, config_of, write_model

from moe_jax.checkpoint import CheckpointError, Checkpoints
from moe_jax.errors import UserError
from moe_jax.interop.convert import import_hf
from moe_jax.interop.open import ORIGIN
from moe_jax.mesh.build import build_mesh, mesh_shape
from moe_jax.model.skeleton import Skeleton
from moe_jax.training import initial
from moe_jax.training.initial import keep_tokenizer, read_initial
from moe_jax.training.resume import restore_run


def mesh_of(config):
    return build_mesh(config.mesh, jax.devices()[: np.prod(mesh_shape(config.mesh))])


@pytest.fixture
def directory(tmp_path):
    write_model(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    return tmp_path / "hf"


@pytest.fixture
def imported(directory, tmp_path):
    import_hf(directory, tmp_path / "imported", (), "auto", lambda done, total: None)
    return tmp_path / "imported"


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16])
def test_both_kinds_of_directories_give_the_same_weights(directory, imported, dtype):
    config = config_of("mesh.expert=4", "mesh.fsdp=2", f"precision.params={dtype.name}")
    mesh = mesh_of(config)
    direct, through = (read_initial(path, config, mesh) for path in (directory, imported))
    shardings = Skeleton(config).shardings(mesh).params
    params = through.weights.params
    assert direct.weights.params.keys() == params.keys() == shardings.keys()
    for name, array in direct.weights.params.items():
        assert array.dtype == params[name].dtype == dtype
        assert array.sharding == params[name].sharding == shardings[name]
        assert np.asarray(array).tobytes() == np.asarray(params[name]).tobytes()
        assert np.asarray(array).any()
    assert direct.origin == through.origin
    assert direct.origin["dtype"] == "bfloat16"
    assert [file.name for file in direct.files] == [file.name for file in through.files]
    assert "family mixtral" in direct.text
    assert "of step 0 in" in through.text


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/00000000"])
def test_a_checkpoint_may_be_named_itself(imported, place):
    config = config_of()
    assert read_initial(imported / place, config, mesh_of(config)).weights.params


@pytest.mark.parametrize("kind", ["directory", "imported"])
def test_another_model_is_an_error_with_the_differing_keys(kind, request):
    path = request.getfixturevalue(kind)
    config = config_of("model.moe.top_k=1", "model.attention.windows=[7]")
    message = r"The config says .*top_k = 1.*; the weights need .*top_k = 2"
    with pytest.raises(ValueError, match=message) as caught:
        read_initial(path, config, mesh_of(config))
    assert "attention.windows" in str(caught.value)


def test_how_a_model_is_trained_may_differ(directory):
    config = config_of("model.moe.router.balance_weight=0.5", "model.init_std=0.5")
    assert read_initial(directory, config, mesh_of(config)).weights.params


def test_what_holds_no_weights_is_refused(tmp_path):
    config = config_of()
    with pytest.raises(ValueError, match=r"--init-from .*none is not a directory"):
        read_initial(tmp_path / "none", config, mesh_of(config))
    with pytest.raises(ValueError, match="holds no checkpoints"):
        read_initial(tmp_path, config, mesh_of(config))


def test_the_tokenizer_is_kept_if_the_run_uses_it(directory, tmp_path):
    files = [directory / "tokenizer.json"]
    same = tmp_path / "same.json"
    same.write_text("{}")
    assert keep_tokenizer(files, config_of(f"data.tokenizer={same}"), tmp_path / "run") == ""
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").read_text() == "{}"
    assert keep_tokenizer([], config_of(), tmp_path / "none") == ""
    assert not (tmp_path / "none").exists()


def test_another_tokenizer_is_warned_of(directory, tmp_path):
    warning = keep_tokenizer([directory / "tokenizer.json"], config_of(), tmp_path / "run")
    assert warning.startswith("data.tokenizer = 'bytes' is not the tokenizer of the initial")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", ["auto", "0"])
def test_imported_weights_are_no_run_to_go_on_with(imported, resume, caplog):
    caplog.set_level(logging.CRITICAL)
    wanted = {"opt_state": jax.ShapeDtypeStruct((2,), np.float32, sharding=_anywhere())}
    with (
        Checkpoints(imported / "checkpoints") as checkpoints,
        pytest.raises(CheckpointError, match=r"holds imported weights, not a run .*--init-from"),
    ):
        restore_run(checkpoints, resume, wanted, config_of(), None)


def test_what_was_imported_is_known_to_later_checkpoints(imported):
    with Checkpoints(imported / "checkpoints") as checkpoints:
        assert checkpoints.info()[ORIGIN]["config"]["model_type"] == "mixtral"


def _anywhere():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_a_defect_in_one_process_is_raised_as_it_is_and_told_to_the_others(monkeypatch):
    told = []
    monkeypatch.setattr(initial, "gather", lambda fact: told.append(fact) or [fact])

    def read():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        initial._all_or_none(read)
    assert told == ["'ours'"]


def test_a_failure_of_another_process_is_raised_here_too(monkeypatch):
    monkeypatch.setattr(initial, "gather", lambda fact: [fact, "the disk of host 1 is gone"])
    with pytest.raises(UserError, match="the disk of host 1 is gone"):
        initial._all_or_none(lambda: "fine here")
