"""Layers and experts that a directory does not have are refused before anything is built."""

import numpy as np
import pytest
from support.model_directories import write_model

from moe_jax.interop.counts import check_counts
from moe_jax.interop.files.shard import TensorEntry
from moe_jax.interop.open import open_model

F32 = np.dtype(np.float32)
HUGE = (2_000_000, 10**30)


@pytest.mark.parametrize("value", [9, *HUGE])
@pytest.mark.parametrize(
    ("field", "there"), [("num_hidden_layers", "3 layers"), ("num_local_experts", "8 experts")]
)
def test_more_than_the_directory_has_is_refused(tmp_path, field, there, value):
    write_model(tmp_path / "m", settings={field: value})
    with pytest.raises(ValueError, match=rf"m: config\.json: {field} = {value}, .* of {there}"):
        open_model(tmp_path / "m")


def entries(**shapes: tuple[int, ...]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(name, shape, F32, 0) for name, shape in shapes.items()}


@pytest.mark.parametrize("value", HUGE)
def test_without_routers_no_expert_has_less_than_a_tensor(tmp_path, value):
    config = {"model_type": "mixtral", "num_hidden_layers": 1, "num_local_experts": value}
    tensors = entries(**{"model.layers.0.input_layernorm.weight": (4,)})
    with pytest.raises(ValueError, match=r"num_local_experts = .* of 1 experts"):
        check_counts(tmp_path, config, tensors)


def test_fused_experts_are_counted_by_their_router(tmp_path):
    config = {"model_type": "gpt_oss", "num_hidden_layers": 1, "num_local_experts": 32}
    router = "model.layers.0.mlp.router.weight"
    check_counts(tmp_path, config, entries(**{router: (32, 4)}))
    with pytest.raises(ValueError, match=r"num_local_experts = 32, .* of 31 experts"):
        check_counts(tmp_path, config, entries(**{router: (31, 4)}))
