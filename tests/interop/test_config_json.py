"""config.json and our configuration: what is read, what is refused, what is written."""

import json
from pathlib import Path

import pytest
from support.hf.hf_cases import CASES
from support.hf.hf_models import SIZES

from moe_jax.config import Config, override
from moe_jax.interop.config_json import derive_family, family_of, to_config, to_config_json
from moe_jax.interop.same_model import differences

#: Sizes that every family needs; further fields take the family's usual values.
SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn"}
ORIGINAL = "original_max_position_embeddings"
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
DEEPSEEK_V3, GPT_OSS = (PUBLISHED[name]["config"] for name in ("DeepSeek-V3", "gpt-oss-120b"))


def small(model_type: str, **fields) -> dict:
    return SMALL | {"model_type": model_type} | fields


def of(model_type: str, **fields):
    return to_config(small(model_type, **fields)).model


def test_deepseek_v3_as_published_is_read():
    config = to_config(DEEPSEEK_V3)
    model = config.model
    assert model.layers == ("dense",) * 3 + ("moe",) * 58
    router, rope = model.moe.router, model.attention.rope
    assert (router.score, router.selection_bias, router.scale) == ("sigmoid", "always", 2.5)
    assert (router.groups, router.top_groups, router.group_score) == (8, 4, "top2_sum")
    assert (rope.scaling, rope.factor, rope.attention_factor) == ("yarn", 40, 1.0)
    # (0.1 ln 40 + 1)² over the square root of 192.
    assert model.attention.scale == pytest.approx(1.87385 / 192**0.5, rel=1e-5)
    assert config.data.sequence_length == 4096


def test_gpt_oss_as_published_is_read():
    model = to_config(GPT_OSS).model
    assert model.attention.windows == (128, 0)
    assert (model.attention.sinks, model.attention.bias) == ("per_head", "all")
    assert (model.attention.rope.ramp, model.attention.rope.factor) == ("exact", 32.0)
    assert (model.moe.activation, model.moe.clamp_limit) == ("swiglu_clamped", 7.0)
    assert (model.moe.clamp_alpha, model.moe.bias, model.moe.router.bias) == (
        1.702,
        "all",
        "per_expert",
    )


def test_older_and_newer_forms_of_rope_are_the_same():
    old = of("llama", rope_theta=5000.0, rope_scaling=YARN)
    assert old == of("llama", rope_parameters=YARN | {"rope_theta": 5000.0})
    assert old.attention.rope.theta == 5000.0
    oldest = {key: value for key, value in YARN.items() if key != "rope_type"} | {"type": "yarn"}
    assert old == of("llama", rope_theta=5000.0, rope_scaling=oldest)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"decoder_sparse_step": 2}, ("dense", "moe")),
        ({"mlp_only_layers": [0, 3]}, ("dense", "moe", "moe")),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, ("dense", "dense", "dense", "moe")),
        ({}, ("moe",)),
    ],
)
def test_sparse_layers_are_those_that_the_fields_say(fields, expected):
    assert of("qwen3_moe", **fields).layers == expected


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("mixtral", {"sliding_window": 9}, (9,)),
        ("mixtral", {"sliding_window": None}, (0,)),
        ("qwen3_moe", {"sliding_window": 9}, (0,)),
        ("qwen3_moe", {"sliding_window": 9, "use_sliding_window": True}, (9,)),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 3}, (0, 0, 0, 4096)),
        ("qwen3", {"use_sliding_window": False, "max_window_layers": 3}, (0,)),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 2}, (4096, 0, 0, 0)),
        ("gpt_oss", {}, (128, 0)),
        ("gpt_oss", {"layer_types": ["full_attention"] * 4}, (0,)),
    ],
)
def test_windows_are_on_the_layers_that_the_fields_say(model_type, fields, expected):
    assert of(model_type, **fields).attention.windows == expected


@pytest.mark.parametrize(
    ("model_type", "fields", "named"),
    [
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2, "odd": 3}}, "odd = 3"),
        (
            "llama",
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "of their own",
        ),
        ("llama", {"rope_theta": None}, "rope_theta = None"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("llama", {"sliding_window": 7}, "sliding_window = 7"),
        ("llama", {"attention_bias": 1}, "attention_bias = 1"),
        ("llama", {"num_hidden_layers": "4"}, "num_hidden_layers = '4'"),
        ("llama", {"vocab_size": None}, "vocab_size = None"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "it needs factor"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "it needs factor"),
        ("deepseek_v3", {"rope_parameters": {"rope_type": "yarn"}}, "it needs factor"),
        ("deepseek_v3", {"rope_scaling": YARN | {"factor": "x"}}, "factor = 'x'"),
        ("llama", {"rope_scaling": YARN | {"factor": float("inf")}}, "factor = inf"),
        ("llama", {"rope_scaling": YARN | {"mscale": True}}, "mscale = True"),
        ("llama", {"rope_scaling": YARN | {ORIGINAL: 0}}, "original_max_position_embeddings = 0"),
        ("llama", {"rope_scaling": [1]}, "rope_scaling = [1]"),
        ("llama", {"rope_parameters": "yarn"}, "rope_parameters = 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": ["yarn"]}}, "rope_type = ['yarn']"),
        ("llama", {"rope_theta": {}}, "rope_theta = {}"),
        ("llama", {"max_position_embeddings": None}, "max_position_embeddings = None"),
        ("mixtral", {"max_position_embeddings": "x"}, "max_position_embeddings = 'x'"),
        ("gpt_oss", {"max_position_embeddings": {}}, "max_position_embeddings = {}"),
        ("llama", {"num_hidden_layers": 1e30}, "num_hidden_layers = 1e+30"),
        ("mixtral", {"num_local_experts": 1e30}, "num_local_experts = 1e+30"),
        ("qwen3_moe", {"num_local_experts": "8"}, "num_local_experts = '8'"),
        ("llama", {"vocab_size": 32.0}, "vocab_size = 32.0"),
        ("llama", {"head_dim": {}}, "head_dim = {}"),
        ("llama", {"num_key_value_heads": []}, "num_key_value_heads = []"),
        ("mixtral", {"sliding_window": {}}, "sliding_window = {}"),
        ("gpt_oss", {"sliding_window": -1}, "sliding_window = -1"),
        ("qwen3", {"use_sliding_window": 1}, "use_sliding_window = 1"),
        ("qwen3", {"max_window_layers": "x"}, "max_window_layers = 'x'"),
        ("qwen3_moe", {"mlp_only_layers": {}}, "mlp_only_layers = {}"),
        ("deepseek_v3", {"first_k_dense_replace": 10**9}, "first_k_dense_replace = 1000000000"),
        ("deepseek_v3", {"q_lora_rank": {}}, "q_lora_rank = {}"),
        ("deepseek_v3", {"v_head_dim": None}, "v_head_dim = None"),
        ("gpt_oss", {"layer_types": 4}, "layer_types = 4"),
        ("phimoe", {"rope_scaling": LONGROPE}, "it needs short_mscale"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step = 0"),
        ("mixtral", {"norm_topk_prob": True}, "norm_topk_prob = True"),
        ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok = 3"),
        (
            "deepseek_v2",
            {"num_experts_per_tok": 2, "norm_topk_prob": True},
            "norm_topk_prob = True",
        ),
        ("deepseek_v2", {"num_experts_per_tok": 2, "topk_method": "odd"}, "topk_method = 'odd'"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq = 2"),
        ("deepseek_v3", {"attention_bias": True}, "attention_bias = True"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads = 2"),
        ("deepseek_v3", {"rms_norm_eps": 1e-5}, "rms_norm_eps = 1e-05"),
        ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gpt_oss", {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ("gpt_oss", {"sliding_window": None}, "layer_types"),
    ],
)
def test_what_changes_the_computation_and_is_not_known_is_refused(model_type, fields, named):
    with pytest.raises(ValueError, match=r"^config\.json: ") as error:
        of(model_type, **fields)
    assert named in str(error.value)


def test_a_field_without_a_value_is_asked_for():
    fields = {key: value for key, value in small("llama").items() if key != "hidden_size"}
    with pytest.raises(ValueError, match="hidden_size is missing"):
        to_config(fields)


def test_a_value_of_another_type_names_our_field():
    with pytest.raises(ValueError, match=r"read from config\.json:\n.*model\.norm_eps"):
        of("llama", rms_norm_eps="x")


def test_an_unknown_model_type_names_the_nearest():
    with pytest.raises(ValueError, match=r"'qwen3_mo' is not supported \(did you mean 'qwen3_moe'"):
        to_config({"model_type": "qwen3_mo"})
    with pytest.raises(ValueError, match="model_type = None is not supported"):
        to_config({})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_written_reads_as_the_same_model(case):
    """Nothing is recorded of where the model came from: its family follows from what it has."""
    config = to_config(SIZES | case.fields | {"model_type": case.model_type})
    family = derive_family(config)
    assert family.model_type == case.model_type
    written = json.loads(json.dumps(to_config_json(config)))
    assert written["architectures"] == [family.architecture]
    back = to_config(written)
    assert differences(config.model, back.model) == []
    assert differences(back.model, config.model) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transformers_reads_what_is_written_as_the_same_model(case):
    transformers = pytest.importorskip("transformers")
    config = to_config(SIZES | case.fields | {"model_type": case.model_type})
    theirs = transformers.AutoConfig.for_model(**to_config_json(config))
    back = to_config(json.loads(theirs.to_json_string(use_diff=False)))
    assert differences(config.model, back.model) == []


def test_an_unchanged_model_keeps_its_config_json():
    kept = {key: value for key, value in DEEPSEEK_V3.items() if key != "quantization_config"}
    source = DEEPSEEK_V3 | {"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}}
    assert to_config_json(to_config(source), source=source) == kept


def test_a_changed_model_keeps_what_is_no_part_of_it():
    config = override(to_config(GPT_OSS), ["model.moe.clamp_limit=5.0", "model.vocab_size=64"])
    written = to_config_json(config, source=GPT_OSS)
    assert written["swiglu_limit"] == 5.0
    assert written["vocab_size"] == 64
    assert written["max_position_embeddings"] == 131072
    assert "rope_scaling" not in written
    assert "quantization_config" not in written


def test_a_model_that_no_family_has_names_what_is_in_the_way():
    config = override(to_config(small("llama")), ["model.attention.sinks=per_head"])
    with pytest.raises(ValueError, match=r"'llama', lacks: model\.attention\.sinks = 'per_head'"):
        to_config_json(config)
    with pytest.raises(ValueError, match=r"'llama' cannot hold .* model\.attention\.sinks"):
        to_config_json(config, source=small("llama"))


def test_the_nearest_family_is_that_which_lacks_least():
    gelu = override(Config(), ["model.moe.activation=gelu"])
    message = r"the nearest, 'mixtral', lacks: model\.moe\.activation = 'gelu' has no hidden_act$"
    with pytest.raises(ValueError, match=message):
        derive_family(gelu)


def test_training_settings_are_no_difference():
    config = to_config(small("mixtral"))
    changed = override(config, ["model.moe.router.balance_weight=0.5", "model.init_std=0.1"])
    assert differences(config.model, changed.model) == []
    assert family_of(to_config_json(changed)).name == "mixtral"
