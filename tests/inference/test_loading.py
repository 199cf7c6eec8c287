"""Where models come from: Hugging Face directories, runs, conversions; which tokenizer they get."""

import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.chat_files import write_tokenizer
from support.model_directories import config_of, write_model
from support.serving.fake_engine import FakeEngine
from support.training_cases import ONE_DEVICE, session_on_first_devices, small_config

import moe_jax
from moe_jax.checkpoint import Checkpoints
from moe_jax.config import write_config
from moe_jax.config.schema import MeshConfig
from moe_jax.inference import language_model
from moe_jax.inference.loading import FIXED
from moe_jax.interop.convert import from_hf as convert
from moe_jax.mesh.build import build_mesh

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
    weights = session.skeleton.init(0, session.mesh)
    with Checkpoints(root / "checkpoints") as checkpoints:
        checkpoints.save(3, weights, {})
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


@pytest.mark.slow
def test_a_run_is_loaded_onto_the_devices_at_hand(run):
    model = moe_jax.load(run)
    assert model.config.mesh == MeshConfig(expert=8)
    assert model.tokenizer.identity == "bytes"
    same = moe_jax.load(run, step=3, mesh=MeshConfig(expert=4))
    assert same.config.mesh == MeshConfig(expert=4)
    for name, array in model.session.skeleton.variables.items():
        assert array.shape == same.session.skeleton.variables[name].shape


def test_the_dtype_is_as_stored_or_as_asked(directory, run):
    assert dtypes(moe_jax.load(directory)) == {"float32"}
    assert dtypes(moe_jax.load(run)) == {"float32"}
    for path in (directory, run):
        half = moe_jax.load(path, dtype="bfloat16")
        assert dtypes(half) == {"bfloat16"}
        for config in (half.config, half.session.skeleton.config):
            assert (config.precision.params, config.precision.compute) == ("bfloat16",) * 2


def dtypes(model):
    params = model.weights.params
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


def test_a_tokenizer_that_leads_out_of_its_folder_in_a_run_is_refused(run, tmp_path):
    path, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(run, path)
    outside.mkdir()
    write_tokenizer(outside)
    (path / "tokenizer").mkdir()
    link = path / "tokenizer" / "tokenizer.json"
    link.symlink_to(outside / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json: it is a link to .*outside"):
        moe_jax.load(path)
    link.unlink()
    shutil.copy(outside / "tokenizer.json", link)
    assert moe_jax.load(path).tokenizer.encode_prompt("a")[0] == 1


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


def test_a_mesh_that_does_not_fit_leaves_training_and_sizes_alone(directory):
    with pytest.raises(ValueError, match=r"num_experts \(8\)") as raised:
        moe_jax.load(directory, overrides=["mesh.expert=3"])
    assert "train." not in str(raised.value)
    assert str(raised.value).endswith(FIXED)


def test_a_model_says_what_it_is(run, directory):
    few = moe_jax.load(directory, overrides=["mesh.expert=2", "data.sequence_length=48"])
    assert re.fullmatch(
        r"<LanguageModel mixtral: [\d,]+ parameters, 3 layers, 8 experts, float32, mesh expert 2>",
        repr(few),
    )
    params = few.weights.params
    assert f" {sum(array.size for array in params.values()):,} parameters" in repr(few)


@pytest.fixture(scope="module")
def loaded(run):
    return moe_jax.load(run)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda m: m.generate("a", max_new_tokens=3), TypeError, "did you mean max_tokens"),
        (lambda m: m.chat([{"role": "user"}], max_new_tokens=3), TypeError, "^chat has no option"),
        (lambda m: m.chat("hi"), TypeError, "a list of messages, got 'hi'"),
        (lambda m: m.generate(3), TypeError, "or a list of those, got 3"),
        (lambda m: m.generate(["a", 3]), TypeError, "got 3: give a text"),
        (lambda m: m.logits(["a"]), TypeError, "or of several texts of one length"),
        (lambda m: m.generate("x " * 2000), ValueError, "the context is 32 .*made for 32 tokens"),
        (lambda m: m.generate("a", context=0), ValueError, r"context \(0\) must"),
        (lambda m: m.engine(context=0), ValueError, r"context \(0\) must"),
        (lambda m: m.generate("a", slots=0), ValueError, r"slots \(0\) must"),
    ],
)
def test_a_mistake_is_named_before_anything_compiles(loaded, ask, error, message):
    with pytest.raises(error, match=message):
        ask(loaded)


def test_an_engine_serves_again_only_within_its_limits(loaded, monkeypatch, caplog):
    made = []

    def engine(*args, slots, context):
        made.append(context)
        return FakeEngine(slots, context)

    monkeypatch.setattr(language_model, "CachedEngine", engine)
    monkeypatch.setattr(loaded, "_engine", None)
    for context in (None, None, 64, 64, None):
        loaded.generate("a", max_tokens=9, context=context)
    assert made == [32, 64, 32]
    assert caplog.text.count("a context of 64 tokens is beyond the 32") == 1


@pytest.mark.parametrize("which", ["directory", "converted"])
def test_an_imported_model_was_made_for_what_its_config_says(which, request, monkeypatch, caplog):
    path = request.getfixturevalue(which)
    model = moe_jax.load(path, overrides=["data.sequence_length=32"])
    monkeypatch.setattr(language_model, "CachedEngine", lambda *args, **sizes: sizes["context"])
    assert (model.engine(), model.engine(context=64)) == (32, 64)
    assert "beyond" not in caplog.text
    model.engine(context=65)
    assert "a context of 65 tokens is beyond the 64" in caplog.text
    monkeypatch.setattr(model._forward, "logits", lambda tokens: tokens)
    monkeypatch.setattr(model._forward, "logprobs", lambda tokens: tokens[:, 1:])
    model.logits([[1] * 66] * 2)
    model.score([1] * 67)
    assert [f"context of {length} tokens" in caplog.text for length in (66, 67)] == [True, True]


@pytest.mark.slow
def test_the_package_alone_imports_neither_jax_nor_numpy():
    code = (
        "import sys, moe_jax; heavy = {'jax', 'numpy', 'flax'} & set(sys.modules); "
        "assert not heavy, heavy; assert callable(moe_jax.load) and callable(moe_jax.from_hf)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        moe_jax.nothing  # noqa: B018
