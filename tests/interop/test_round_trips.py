"""Models of `transformers` through a checkpoint of ours and back: same bytes, same model."""

import numpy as np
import pytest
from hf_cases import CASES, SMOKE
from hf_models import Case, logits_of_theirs, saved, valid
from safetensors.numpy import load_file

from moe_jax.interop.convert import from_hf
from moe_jax.interop.export import to_hf

pytest.importorskip("torch")
pytest.importorskip("transformers")

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


def logits_after_loading(path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return logits_of_theirs(model.eval())


@pytest.mark.parametrize(
    "case",
    [case if case in SMOKE else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=str,
)
def test_there_and_back_is_the_same_directory(case: Case, root, tmp_path):
    theirs = saved(case, root)
    from_hf(theirs, tmp_path / "run", [], "auto", quiet)
    to_hf(tmp_path / "run", tmp_path / "back", None, "auto", 10**9, quiet)
    before, after = tensors(theirs), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)
    logits = logits_after_loading(tmp_path / "back")
    np.testing.assert_array_equal(logits[valid()], np.load(theirs / "logits.npy")[valid()])
