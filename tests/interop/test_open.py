"""Directories opened as models of ours; what files may be is tested in files/."""

import numpy as np
import pytest
from support.model_directories import BF16, write_model

from moe_jax.errors import UserError
from moe_jax.interop.open import TUNING_RATE, open_model


@pytest.mark.parametrize(("stored", "dtype"), [(BF16, "bfloat16"), (np.dtype("f4"), "float32")])
def test_a_model_keeps_the_precision_it_is_stored_in(tmp_path, stored, dtype):
    write_model(tmp_path / "m", dtype=stored)
    precision = open_model(tmp_path / "m").config.precision
    assert (precision.params, precision.compute) == (dtype, dtype)
    assert precision.master == ("float32" if dtype == "bfloat16" else precision.master)
    other = {"bfloat16": "float32", "float32": "bfloat16"}[dtype]
    assert open_model(tmp_path / "m", dtype=other).config.precision.params == other


def test_nothing_is_read_and_the_rate_suits_tuning(tmp_path):
    write_model(tmp_path / "m")
    model = open_model(tmp_path / "m", ["mesh.expert=8"])
    assert model.source.bytes_read == 0
    assert model.family.name == "mixtral"
    assert (model.config.mesh.expert, model.config.optimizer.learning_rate) == (8, TUNING_RATE)


def test_its_own_tokenizer_is_used_where_it_has_one(tmp_path):
    write_model(tmp_path / "m")
    assert open_model(tmp_path / "m").config.data.tokenizer == "bytes"
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    own = str(tmp_path / "m" / "tokenizer.json")
    assert open_model(tmp_path / "m").config.data.tokenizer == own
    assert open_model(tmp_path / "m", ["data.tokenizer=bytes"]).config.data.tokenizer == "bytes"


def test_weights_of_another_model_are_refused(tmp_path):
    write_model(tmp_path / "m")
    with pytest.raises(UserError, match=r"of another model than --set .*model\.moe\.top_k = 1"):
        open_model(tmp_path / "m", ["model.moe.top_k=1"])


def test_the_origin_names_the_usual_dtype_and_the_others(tmp_path):
    odd = "model.norm.weight"
    write_model(tmp_path / "m", odd={odd: np.dtype(np.float32)})
    origin = open_model(tmp_path / "m").origin()
    assert (origin["dtype"], origin["other_dtypes"]) == ("bfloat16", {odd: "float32"})
    assert origin["config"]["model_type"] == "mixtral"
