"""Upcycled models against the dense ones that they were made of."""

import itertools

import jax
import numpy as np
import pytest
from support.training_cases import session_on_first_devices, small_config

import moe_jax
from moe_jax.checkpoint import Checkpoints, read_contents
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.config import write_config
from moe_jax.interop.dense_model import open_dense, slab_of
from moe_jax.interop.tensors.pieces import layer_of
from moe_jax.interop.upcycle import UPCYCLED, Upcycling, upcycle, upcycled_config
from moe_jax.model.skeleton import Skeleton

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 24)).astype(np.int32)
DENSE = (
    "model.layers=['dense']",
    "model.num_layers=4",
    "model.mlp.d_ff=48",
    "model.init_std=0.3",
    "model.attention.windows=[0, 8]",
    "mesh.expert=1",
)


def write_run(root, *overrides):
    """Writes a run with fresh weights, its biases random too."""
    session = session_on_first_devices(small_config(*DENSE, *overrides))
    weights = session.skeleton.init(0, session.mesh)
    rng = np.random.default_rng(1)
    for name, value in weights.params.items():
        if ".b_" in name:
            weights.params[name] = jax.device_put(
                rng.normal(size=value.shape).astype(value.dtype), value.sharding
            )
    with Checkpoints(root / "checkpoints") as checkpoints:
        checkpoints.save(7, weights, {"config": _text(session)})
    write_config(session.config, root)
    return root


def _text(session):
    from moe_jax.config import dump_config

    return dump_config(session.config)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("dense"), "model.mlp.activation=swiglu")


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("biased"), "model.mlp.bias=all")


def upcycled(source, out, *overrides, **how):
    upcycle(open_dense(source, None, "auto"), out, Upcycling(**how), overrides, lambda a, b: None)
    return out


def stored(root, *names):
    with Checkpoints(root / "checkpoints") as checkpoints:
        skeleton = Skeleton(moe_jax.load(root, mesh={"expert": 1}).config)
        wanted = skeleton.abstract(jax.make_mesh((1,) * 5, _AXES, devices=_ONE))
        found = checkpoints.restore(wanted, extra="ignore")
    return [np.asarray(found.state.by_name[name]) for name in names]


_AXES = ("pipe", "data", "fsdp", "expert", "tensor")
_ONE = jax.devices()[:1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("dense", {"copies": 4, "top_k": 2}),
        ("dense", {"copies": 4, "top_k": 1, "every": 2}),
        ("dense", {"copies": 2, "top_k": 4, "granularity": 4}),
        ("biased", {"copies": 4, "top_k": 6, "granularity": 3, "every": 3}),
    ],
    ids=str,
)
def test_at_first_the_model_computes_what_the_dense_one_does(request, source, how, tmp_path):
    path = request.getfixturevalue(source)
    want = moe_jax.load(path).logits(TOKENS)
    assert Upcycling(**how).changes == ()
    model = moe_jax.load(upcycled(path, tmp_path / "moe", **how))
    assert model.config.mesh.expert > 1
    assert "moe" in model.config.model.layers
    np.testing.assert_allclose(model.logits(TOKENS), want, atol=1e-4)
    assert want.std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"copies": 4, "top_k": 2, "noise": 0.05}, "noise of 0.05 was added"),
        ({"copies": 2, "top_k": 3, "granularity": 2}, "3 experts are no whole number of copies"),
    ],
)
def test_where_it_does_not_it_says_why(dense, how, why, tmp_path):
    assert any(why in reason for reason in Upcycling(**how).changes)
    want = moe_jax.load(dense).logits(TOKENS)
    got = moe_jax.load(upcycled(dense, tmp_path / "moe", **how)).logits(TOKENS)
    assert abs(got - want).max() > 1e-2


@pytest.mark.slow
def test_experts_are_parts_of_copies_and_parts_share_a_router_column(dense, tmp_path):
    out = upcycled(dense, tmp_path / "moe", copies=2, top_k=2, granularity=2)
    block = "stacks.0.unit.blocks.1"
    up, down, router = stored(
        out,
        f"{block}.moe.experts.w_up_edf",
        f"{block}.moe.experts.w_down_efd",
        f"{block}.moe.router.w_de",
    )
    mlp_up, mlp_down = stored(dense, f"{block}.mlp.w_up_df", f"{block}.mlp.w_down_fd")
    for expert in range(4):
        part = slice(24 * (expert % 2), 24 * (expert % 2) + 24)
        np.testing.assert_array_equal(up[:, expert], mlp_up[:, :, part])
        np.testing.assert_array_equal(down[:, expert], 2 * mlp_down[:, part])
    np.testing.assert_array_equal(router[..., 0::2], router[..., 1::2])
    assert (router[..., 0] != router[..., 2]).all()
    assert (router[0] != router[1]).any()


@pytest.mark.slow
def test_noise_differs_between_experts_and_spares_biases(biased, tmp_path):
    out = upcycled(biased, tmp_path / "moe", copies=2, top_k=2, noise=0.01, seed=3)
    again = upcycled(biased, tmp_path / "again", copies=2, top_k=2, noise=0.01, seed=3)
    names = [f"stacks.0.unit.blocks.0.moe.experts.{n}" for n in ("w_up_edf", "b_up_ef")]
    (up, bias), (same, _) = stored(out, *names), stored(again, *names)
    (mlp,) = stored(biased, "stacks.0.unit.blocks.0.mlp.w_up_df")
    np.testing.assert_array_equal(up, same)
    np.testing.assert_allclose((up - mlp[:, None]).std(axis=(2, 3)), 0.01, rtol=0.2)
    assert (up[:, 0] != up[:, 1]).all()
    np.testing.assert_array_equal(bias[:, 0], bias[:, 1])


@pytest.mark.slow
def test_noise_differs_between_the_matrices_of_an_expert(tmp_path):
    # As wide as it is deep: both matrices of an expert have one shape.
    source = write_run(tmp_path / "dense", "model.mlp.d_ff=32")
    out = upcycled(source, tmp_path / "moe", copies=2, top_k=2, noise=0.01)
    block = "stacks.0.unit.blocks.0"
    ends = ("w_up_edf", "w_down_efd")
    made = stored(out, *(f"{block}.moe.experts.{end}" for end in ends))
    dense = stored(source, f"{block}.mlp.w_up_df", f"{block}.mlp.w_down_fd")
    up, down = (new[:, 0] - old for new, old in zip(made, dense, strict=True))
    assert up.shape == down.shape
    assert abs(np.corrcoef(up.ravel(), down.ravel())[0, 1]) < 0.2


def test_the_checkpoint_says_what_it_was_made_of_and_keeps_other_settings(dense, tmp_path):
    out = upcycled(
        dense,
        tmp_path / "moe",
        "model.moe.router.bias_update_rate=0.001",
        "train.steps=9",
        copies=4,
        top_k=2,
    )
    info = read_contents(out / "checkpoints", 0, "digests").info
    assert (info[UPCYCLED]["copies"], info[UPCYCLED]["from"]) == (4, "quickstart")
    config = moe_jax.load(out, mesh={"expert": 4}).config
    assert (config.name, config.train.steps) == ("quickstart-moe", 9)
    (bias,) = stored(out, "stacks.0.unit.blocks.0.moe.router.bias_e")
    assert not bias.any()


def test_layers_find_their_rows_in_any_pattern():
    for layers, windows in itertools.product(
        ("['dense']", "['dense', 'moe']", "['dense', 'dense', 'moe']"), ("[0]", "[0, 8]")
    ):
        model = small_config(
            f"model.layers={layers}", f"model.attention.windows={windows}", "model.num_layers=6"
        ).model
        rows = {}
        for name in Skeleton(small_config().model_copy(update={"model": model})).variables:
            inner, found = layer_of(model, name)
            for row, layer in enumerate(found):
                assert slab_of(model, layer, inner) == (name, (row,))
                rows.setdefault(layer, []).append(inner)
        assert sorted(rows) == list(range(6))


@pytest.mark.parametrize(
    ("how", "overrides", "message"),
    [
        ({"granularity": 5}, (), r"granularity \(5\) must divide the MLP's hidden size \(48\)"),
        ({"every": 5}, (), r"every \(5\) must be at most the number of layers \(4\)"),
        ({}, ("model.moe.top_k=1",), "another model than upcycling makes .*top_k"),
        ({}, ("mesh.expert=3",), "num_experts"),
    ],
)
def test_what_cannot_be_made_is_refused(how, overrides, message):
    with pytest.raises(ValueError, match=message):
        upcycled_config(small_config(*DENSE), Upcycling(**how), overrides)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"copies": 0}, r"copies \(0\) must be 1 or more"),
        ({"top_k": 9}, r"top_k \(9\) must be at most the number of experts \(8 copies x"),
        ({"noise": -1.0}, r"noise \(-1.0\)"),
    ],
)
def test_values_out_of_range_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Upcycling(**how)


def test_a_model_with_experts_is_refused_and_nothing_is_left(dense, tmp_path, capsys):
    out = upcycled(dense, tmp_path / "moe", copies=4, top_k=2)
    with pytest.raises(ValueError, match="has experts already"):
        open_dense(out, None, "auto")
    assert main(["upcycle", str(dense), str(out)]) == exit_codes.USER_ERROR
    assert "exists and is never overwritten" in capsys.readouterr().err
    bad = ["upcycle", str(dense), str(tmp_path / "no"), "--granularity", "5"]
    assert main(bad) == exit_codes.USER_ERROR
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


@pytest.mark.slow
def test_the_command_upcycles_a_llama_of_transformers(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    import torch
    from support.hf.tiny_hf import their_logits

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    llama = transformers.LlamaForCausalLM(config).eval()
    llama.save_pretrained(tmp_path / "llama")
    options = ["--experts", "4", "--granularity", "2"]
    code = main(["upcycle", str(tmp_path / "llama"), str(tmp_path / "moe"), *options])
    text = capsys.readouterr().out
    assert code == exit_codes.OK
    assert "8 experts of 32 in each of 2 layers, 4 per token" in text
    assert "at first it computes what" in text
    model, want = moe_jax.load(tmp_path / "moe"), their_logits(llama, TOKENS)
    np.testing.assert_allclose(model.logits(TOKENS), want, atol=1e-4)

    assert main(["convert", "to-hf", str(tmp_path / "moe"), str(tmp_path / "hf")]) == exit_codes.OK
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert exported.config.model_type == "mixtral"
    np.testing.assert_allclose(their_logits(exported.eval(), TOKENS), want, atol=1e-4)
