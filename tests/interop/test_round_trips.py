"""Models of `transformers` through a checkpoint of ours and back: same bytes, same model."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.hf.hf_cases import CASES, SMOKE
from support.hf.hf_models import (
    EXPERTS,
    LENGTH,
    ROWS,
    Case,
    logits_after_loading,
    logits_of_ours,
    mesh_of,
    saved,
    valid,
)

from moe_jax.config import override
from moe_jax.interop.convert import import_hf
from moe_jax.interop.export import export_hf
from moe_jax.interop.open import open_model
from moe_jax.session import make_session
from moe_jax.training.loop import train

pytest.importorskip("torch")
pytest.importorskip("transformers")

#: Compiling a training step takes its time.
TRAINED = ("qwen2_moe", "deepseek_v3", "gpt_oss")
ONE_STEP = (
    "mesh.expert=8",
    "data.source=synthetic",
    f"data.sequence_length={LENGTH}",
    f"train.global_batch={ROWS}",
    "train.steps=1",
    "schedule.kind=constant",
    "schedule.warmup_steps=0",
    "optimizer.learning_rate=0.02",
    f"exchange.capacity_factor={EXPERTS}",
    "checkpoint.mode=sync",
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers")


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf_models")


def tensors(path) -> dict[str, np.ndarray]:
    return {
        name: tensor
        for file in sorted(path.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.mark.parametrize(
    "case",
    [case if case in SMOKE else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=str,
)
def test_there_and_back_is_the_same_directory(case: Case, root, tmp_path):
    theirs = saved(case, root)
    import_hf(theirs, tmp_path / "run", [], "auto", quiet)
    export_hf(tmp_path / "run", tmp_path / "back", None, "auto", 10**9, quiet)
    before, after = tensors(theirs), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)
    logits = logits_after_loading(tmp_path / "back")
    np.testing.assert_array_equal(logits[valid()], np.load(theirs / "logits.npy")[valid()])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SMOKE if case.model_type in TRAINED], ids=str)
def test_a_model_that_was_trained_on_goes_back(case: Case, root, tmp_path):
    theirs = saved(case, root)
    config = override(open_model(theirs).config, ONE_STEP)
    session = make_session(config, "cpu", mesh=mesh_of(config))
    train(session, tmp_path / "run", "none", theirs)
    export_hf(tmp_path / "run", tmp_path / "back", None, "auto", 10**9, quiet)
    after = logits_after_loading(tmp_path / "back")[valid()]
    assert np.abs(after - np.load(theirs / "logits.npy")[valid()]).max() > 0.1
    ours = logits_of_ours(tmp_path / "back", "mesh.expert=8")[valid()]
    np.testing.assert_allclose(after, ours, rtol=0, atol=1e-4)
