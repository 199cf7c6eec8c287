"""Where models come from: Hugging Face directories, runs, conversions; which tokenizer they get."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from chat_files import write_tokenizer
from model_directories import config_of, write_model
from training_cases import ONE_DEVICE, session_on_first_devices, small_config

import moe_jax
from moe_jax.checkpoint import Checkpoints
from moe_jax.config.schema import MeshConfig
from moe_jax.interop.convert import from_hf as convert
from moe_jax.mesh.build import build_mesh
from moe_jax.train.workdir import write_config

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module", autouse=True)
def started():
    """Models are spread over the devices that JAX has started with."""
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "mixtral"
    write_model(path, config_of(), np.dtype(np.float32), scale=0.3)
    return path


@pytest.fixture(scope="module")
def converted(directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(directory, out, [], "auto", lambda done, total: None)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of which only the weights were saved, trained on one device."""
    root = tmp_path_factory.mktemp("run")
    session = session_on_first_devices(small_config(*ONE_DEVICE, "model.init_std=0.3"))
    params, buffers = session.steps.skeleton.init(0, session.mesh)
    with Checkpoints(root / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": params, "buffers": buffers}, {})
    write_config(session.config, root)
    return root


@pytest.mark.slow
def test_a_directory_and_its_conversion_are_one_model(directory, converted):
    first, second = moe_jax.load(directory), moe_jax.load(converted)
    assert first.config.mesh == second.config.mesh == MeshConfig(expert=8)
    np.testing.assert_allclose(first.logits(TOKENS), second.logits(TOKENS), atol=1e-6)
    assert (first.name, second.name) == ("mixtral", "out")


@pytest.mark.slow
def test_any_mesh_gives_the_same_logits(directory):
    want = moe_jax.load(directory, mesh={"expert": 1}).logits(TOKENS)
    four = build_mesh(MeshConfig(expert=2, tensor=2), jax.devices()[4:])
    found = moe_jax.load(directory, mesh=four)
    assert found.session.mesh is four
    np.testing.assert_allclose(found.logits(TOKENS), want, atol=1e-5)
    few = moe_jax.load(directory, overrides=["mesh.expert=2", "exchange.transport=all_gather"])
    assert few.session.mesh.size == 2
    np.testing.assert_allclose(few.logits(TOKENS), want, atol=1e-5)


def test_a_run_is_loaded_onto_the_devices_at_hand(run):
    model = moe_jax.load(run)
    assert model.config.mesh == MeshConfig(expert=8)
    assert model.tokenizer.identity == "bytes"
    same = moe_jax.load(run, step=3, mesh=MeshConfig(expert=4))
    assert same.config.mesh == MeshConfig(expert=4)
    for name, array in model.session.steps.skeleton.variables.items():
        assert array.shape == same.session.steps.skeleton.variables[name].shape


def test_the_dtype_is_as_stored_or_as_asked(directory, run):
    assert dtypes(moe_jax.load(directory)) == {"float32"}
    half = moe_jax.load(directory, dtype="bfloat16")
    assert dtypes(half) == {"bfloat16"}
    assert half.config.precision.compute == "bfloat16"
    half = moe_jax.load(run, dtype="bfloat16")
    assert dtypes(half) == {"bfloat16"}
    assert half.session.steps.skeleton.config.precision.params == "bfloat16"


def dtypes(model):
    params, _ = model.arrays
    return {array.dtype.name for array in params.values()}


def test_a_tokenizer_moves_with_its_model(directory, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(directory, source)
    write_tokenizer(source)
    convert(source, tmp_path / "made", [], "auto", lambda done, total: None)
    (tmp_path / "made").rename(tmp_path / "moved")
    shutil.rmtree(source)
    model = moe_jax.load(tmp_path / "moved")
    assert model.tokenizer.encode_prompt("a")[0] == 1


def test_a_model_without_a_tokenizer_takes_no_text(directory, converted):
    for path in (directory, converted):
        model = moe_jax.load(path)
        with pytest.raises(ValueError, match=r"has no tokenizer\.json, so it takes no text"):
            model.generate("a")
    assert moe_jax.load(directory, overrides=["data.tokenizer=bytes"]).config.name


def test_a_tokenizer_that_leads_out_of_the_directory_is_refused(directory, tmp_path):
    model, outside = tmp_path / "model", tmp_path / "outside"
    shutil.copytree(directory, model)
    outside.mkdir()
    write_tokenizer(outside)
    (model / "tokenizer.json").symlink_to(outside / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json: it is a link to .*outside"):
        moe_jax.load(model)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda hf, run, tmp: moe_jax.load(tmp / "none"), "none is not a directory: give the"),
        (
            lambda hf, run, tmp: moe_jax.load(tmp),
            r"config\.toml is missing, and so is config\.json",
        ),
        (lambda hf, run, tmp: moe_jax.from_hf(run), "is no Hugging Face directory"),
        (lambda hf, run, tmp: moe_jax.load(hf, step=3), "has no step 3"),
        (lambda hf, run, tmp: moe_jax.load(run, step=7), "no good checkpoint of step 7"),
        (lambda hf, run, tmp: moe_jax.load(hf, mesh={"expert": 3}), "num_experts"),
        (lambda hf, run, tmp: moe_jax.load(hf, mesh={"expert": 8, "data": 4}), "needs 32"),
        (lambda hf, run, tmp: moe_jax.load(hf, overrides=["model.moe.top_k=1"]), "top_k"),
    ],
)
def test_what_cannot_be_loaded_is_named(directory, run, tmp_path, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(directory, run, tmp_path)


def test_the_package_alone_imports_neither_jax_nor_numpy():
    code = (
        "import sys, moe_jax; heavy = {'jax', 'numpy', 'flax'} & set(sys.modules); "
        "assert not heavy, heavy; assert callable(moe_jax.load) and callable(moe_jax.from_hf)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        moe_jax.nothing  # noqa: B018
