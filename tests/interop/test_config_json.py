"""config.json and our configuration: what is read, what is refused, what is written."""

import json

import pytest
from support.hf.config_jsons import PUBLISHED, YARN, of, small
from support.hf.hf_cases import CASES
from support.hf.hf_models import SIZES

from moe_jax.config import Config, override
from moe_jax.interop.config_json import derive_family, family_of, to_config, to_config_json
from moe_jax.interop.same_model import differences

ORIGINAL = "original_max_position_embeddings"
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}
DEEPSEEK_V3, GPT_OSS = (PUBLISHED[name]["config"] for name in ("DeepSeek-V3", "gpt-oss-120b"))


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
