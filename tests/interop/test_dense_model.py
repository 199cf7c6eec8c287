"""What may be upcycled, and where a layer's slabs lie; whole models are in test_upcycle.py."""

import pytest
from support.model_directories import write_model

from moe_jax.config import Config, override
from moe_jax.errors import UserError
from moe_jax.interop.dense_model import open_dense, slab_of


def test_a_model_with_experts_is_refused(tmp_path):
    write_model(tmp_path / "m")
    with pytest.raises(UserError, match="has experts already"):
        open_dense(tmp_path / "m", None, "auto")


def test_a_hugging_face_directory_has_no_steps(tmp_path):
    write_model(tmp_path / "m")
    with pytest.raises(UserError, match="is a Hugging Face directory: it has no step 3"):
        open_dense(tmp_path / "m", 3, "auto")


def test_the_dtype_of_a_working_directory_stays(tmp_path):
    with pytest.raises(UserError, match="its dtype stays, leave bfloat16 out"):
        open_dense(tmp_path, None, "bfloat16")


def test_a_layer_lies_in_a_row_of_its_place_in_the_unit():
    pattern = ["model.layers=['dense', 'dense', 'moe']", "model.num_layers=6"]
    model = override(Config(), pattern).model
    assert slab_of(model, 0, "w") == ("stacks.0.unit.blocks.0.w", (0,))
    assert slab_of(model, 4, "w") == ("stacks.0.unit.blocks.1.w", (1,))
    with pytest.raises(AssertionError, match="a layer of another model"):
        slab_of(model, 6, "w")
