"""What transformers makes of exported directories. Those in float32: `test_round_trips.py`."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.hf.hf_cases import CASES, SMOKE
from support.hf.hf_models import Case, logits_of_theirs, make
from support.hf.stored_tensors import stored_tensors
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from moe_jax.interop import export
from moe_jax.interop.convert import import_hf
from moe_jax.interop.export import export_hf


def there_and_back(path) -> None:
    """From `path`/hf to `path`/back."""
    import_hf(path / "hf", path / "run", (), "auto", lambda done, total: None)
    export_hf(path / "run", path / "back", None, "auto", 10**9, lambda done, total: None)


def loaded(path):
    """Returns what transformers makes of a directory, which must fit exactly."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    problems = {what: names for what, names in told.items() if names}
    assert not problems
    return model.eval()


SOME = [case if case in SMOKE else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME, ids=str)
def test_bfloat16_comes_back_bit_by_bit_and_fits_exactly(case, tmp_path):
    make(case).to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    there_and_back(tmp_path)
    assert stored_tensors(tmp_path / "back") == stored_tensors(tmp_path / "hf")
    before, after = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("hf", "back"))
    assert after == before
    assert loaded(tmp_path / "back").dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME, ids=str)
def test_a_model_that_was_never_imported_is_exported(case, tmp_path, monkeypatch):
    """Its family and all of config.json follow from its config."""
    monkeypatch.setattr(export, "ORIGIN", "not noted")
    model = make(case)
    model.save_pretrained(tmp_path / "hf")
    there_and_back(tmp_path)
    got, want = logits_of_theirs(loaded(tmp_path / "back")), logits_of_theirs(model)
    np.testing.assert_allclose(got, want, atol=1e-5)


def quantise_experts(path) -> dict[str, np.ndarray]:
    """Gives a gpt-oss directory experts in MXFP4, random ones; returns what they decode to."""
    rng = np.random.default_rng(0)
    tensors = load_file(path / "model.safetensors")
    want = {}
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inside, outside = tensors.pop(name).shape
        groups = (experts, outside, inside // 32)
        blocks = torch.from_numpy(rng.integers(0, 256, (*groups, 16), dtype=np.uint8))
        scales = torch.from_numpy(rng.integers(120, 126, groups, dtype=np.uint8))
        want[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((path / "config.json").read_text())
    described["quantization_config"] = {"quant_method": "mxfp4"}
    (path / "config.json").write_text(json.dumps(described))
    return want


def test_quantised_weights_are_exported_as_the_numbers_they_stand_for(tmp_path):
    case = next(case for case in SMOKE if case.model_type == "gpt_oss")
    case = Case("quantised", case.model_type, case.fields | {"intermediate_size": 32})
    make(case).to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    want = quantise_experts(tmp_path / "hf")
    there_and_back(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    state = loaded(tmp_path / "back").state_dict()
    assert len(want) == 6
    for name, tensor in want.items():
        assert torch.equal(state[name], tensor), name
