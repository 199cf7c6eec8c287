"""Decoded tensors are those that `transformers` decodes, whole and in part."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.hf.hf_cases import EXPERTS, LATENT
from support.hf.hf_models import (
    Case,
    logits_after_loading,
    logits_of_ours,
    saved,
    valid,
)

from moe_jax.interop.files.shard import TensorEntry
from moe_jax.interop.tensors.quantized import dequantize

MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}
SMALL_BLOCKS = {"weight_block_size": [8, 8]}
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


class Stored:
    """Arrays as the tensors of a directory."""

    path = Path("somewhere")

    def __init__(self, **arrays: np.ndarray):
        self.arrays, self.bytes_read = arrays, 0
        self.tensors = {name: TensorEntry(name, a.shape, a.dtype, 0) for name, a in arrays.items()}

    def entry(self, name):
        if name not in self.tensors:
            raise ValueError(f"no tensor {name}")
        return self.tensors[name]

    def read(self, name, slices=None):
        part = self.arrays[name] if slices is None else self.arrays[name][slices]
        self.bytes_read += part.nbytes
        return part


def mxfp4(experts=3, rows=10, groups=4) -> Stored:
    rng = np.random.default_rng(0)
    return Stored(
        w_blocks=rng.integers(0, 256, (experts, rows, groups, 16), dtype=np.uint8),
        w_scales=rng.integers(118, 136, (experts, rows, groups), dtype=np.uint8),
        other=np.ones(3, np.float32),
    )


def fp8(rows=300, columns=200) -> Stored:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, columns)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.5, 2, (-(-rows // 128), -(-columns // 128))).astype(np.float32)
    return Stored(w=values, w_scale_inv=scales, other=np.ones(3, np.float32))


def test_mxfp4_is_what_transformers_decodes():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.mxfp4")
    stored = mxfp4()
    blocks, scales = (torch.from_numpy(stored.arrays[f"w_{n}"]) for n in ("blocks", "scales"))
    want = theirs.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    source = dequantize(stored, MXFP4)
    assert source.tensors.keys() == {"w", "other"}
    assert source.entry("w").shape == want.shape == (3, 128, 10)
    assert source.entry("w").dtype == ml_dtypes.bfloat16
    got = source.read("w")
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got.astype(ml_dtypes.bfloat16).astype(np.float32), want)


def test_fp8_is_what_transformers_decodes():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.finegrained_fp8")
    stored = fp8(256, 384)
    values = torch.from_numpy(stored.arrays["w"].view(np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(stored.arrays["w_scale_inv"])
    want = theirs._dequantize_fp8_weight(values, scales, [128, 128], torch.float32).numpy()
    source = dequantize(stored, FP8)
    assert source.tensors.keys() == {"w", "other"}
    np.testing.assert_array_equal(source.read("w"), want)


def test_the_last_blocks_of_fp8_may_be_smaller():
    stored = fp8()
    scales = stored.arrays["w_scale_inv"].repeat(128, 0).repeat(128, 1)[:300, :200]
    want = stored.arrays["w"].astype(np.float32) * scales
    np.testing.assert_array_equal(dequantize(stored, FP8).read("w"), want)


@pytest.mark.parametrize(
    ("stored", "config", "part"),
    [
        (mxfp4(), MXFP4, (slice(1, 2), slice(40, 90), slice(3, 7))),
        (mxfp4(), MXFP4, (slice(0, 3), slice(32, 64), slice(0, 10))),
        (fp8(), FP8, (slice(100, 260), slice(127, 129))),
        (fp8(), FP8, (slice(0, 128), slice(0, 200))),
    ],
)
def test_a_part_is_decoded_without_reading_the_rest(stored, config, part):
    source = dequantize(stored, config)
    whole = source.read("w")
    before = source.bytes_read
    np.testing.assert_array_equal(source.read("w", part), whole[part])
    assert source.bytes_read - before < before


def test_other_tensors_pass_through():
    source = dequantize(mxfp4(), MXFP4)
    np.testing.assert_array_equal(source.read("other", (slice(1, 3),)), np.ones(2))
    assert source.entry("other").dtype == np.float32
    with pytest.raises(ValueError, match="no tensor w_blocks_not"):
        source.entry("w_blocks_not")


def test_a_model_that_is_not_quantised_is_left_alone():
    stored = mxfp4()
    assert dequantize(stored, {}) is stored


@pytest.mark.parametrize(
    ("stored", "config", "message"),
    [
        (mxfp4(), {"quantization_config": {"quant_method": "awq"}}, "quant_method = 'awq'"),
        (fp8(), {"quantization_config": {"quant_method": "fp8"}}, "weight_block_size = None"),
        (Stored(w_blocks=np.zeros((1, 2, 3, 16), np.uint8)), MXFP4, "no tensor w_scales"),
        (
            Stored(
                w_blocks=np.zeros((1, 2, 3, 16), np.uint8), w_scales=np.zeros((1, 2, 4), np.uint8)
            ),
            MXFP4,
            r"w_blocks \[1, 2, 3, 16\] must have 16 bytes for each of w_scales \[1, 2, 4\]",
        ),
        (Stored(w=fp8().arrays["w"]), FP8, "no tensor w_scale_inv"),
        (
            Stored(w=fp8().arrays["w"], w_scale_inv=np.ones((2, 2), np.float32)),
            FP8,
            r"w_scale_inv is float32 \[2, 2\], w \[300, 200\] in blocks of \[128, 128\] needs "
            r"float32 \[3, 2\]",
        ),
        (
            Stored(w=fp8().arrays["w"], w_scale_inv=np.ones((3, 2), ml_dtypes.bfloat16)),
            FP8,
            r"w_scale_inv is bfloat16 \[3, 2\], .* needs float32 \[3, 2\]",
        ),
        (mxfp4(), {"quantization_config": "mxfp4"}, "config.json: quantization_config = 'mxfp4'"),
        (
            mxfp4(),
            {"quantization_config": {"quant_method": ["fp8"]}},
            r"quantization_config.quant_method = \['fp8'\] is not supported",
        ),
        (
            fp8(),
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, "a"]}},
            r"weight_block_size = \[0, 'a'\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(stored, config, message):
    with pytest.raises(ValueError, match=message):
        dequantize(stored, config)


GPT_OSS = Case(
    "mxfp4",
    "gpt_oss",
    {"num_local_experts": EXPERTS, "intermediate_size": 64, "head_dim": 8, "sliding_window": 5},
)
DEEPSEEK = Case("fp8", "deepseek_v3", {**LATENT, "n_group": 4, "topk_group": 2})


def as_mxfp4(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng, stored = np.random.default_rng(0), {}
    for name, tensor in tensors.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = tensor
            continue
        experts, width, rows = tensor.shape
        shape = (experts, rows, width // 32)
        stored[f"{name}_blocks"] = rng.integers(0, 256, (*shape, 16), dtype=np.uint8)
        stored[f"{name}_scales"] = rng.integers(121, 125, shape, dtype=np.uint8)
    return stored


def as_fp8(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng, stored = np.random.default_rng(0), {}
    for name, tensor in tensors.items():
        if "_proj" not in name:
            stored[name] = tensor
            continue
        grid = tuple(-(-n // 8) for n in tensor.shape)
        stored[name] = tensor.astype(ml_dtypes.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = rng.uniform(0.5, 2, grid).astype(np.float32)
    return stored


def written(path: Path, config: dict, tensors: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize(
    ("case", "quantize", "quantization"),
    [
        (GPT_OSS, as_mxfp4, MXFP4),
        (DEEPSEEK, as_fp8, {"quantization_config": {"quant_method": "fp8", **SMALL_BLOCKS}}),
    ],
    ids=["mxfp4", "fp8"],
)
def test_a_quantised_model_computes_what_its_numbers_do(case, quantize, quantization, tmp_path):
    pytest.importorskip("transformers")
    plain = saved(case, tmp_path)
    config = json.loads((plain / "config.json").read_text())
    stored = quantize(load_file(plain / "model.safetensors"))
    source = dequantize(Stored(**stored), quantization)
    numbers = {name: np.ascontiguousarray(source.read(name)) for name in source.tensors}
    theirs = logits_after_loading(written(tmp_path / "numbers", config, numbers))
    ours = logits_of_ours(written(tmp_path / "stored", config | quantization, stored))
    assert theirs[valid()].std() > 0.5
    np.testing.assert_allclose(ours[valid()], theirs[valid()], rtol=0, atol=1e-4)
