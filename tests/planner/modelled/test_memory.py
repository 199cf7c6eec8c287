"""What fills a device's memory, by hand where arithmetic is all there is."""

import pytest
from support.planner.layer_models import MOE, NAIVE, TUNED, share_of

from moe_jax.errors import UserError
from moe_jax.planner.modelled.memory import MemoryModel

ACTIVATION, LAYERS, BF16 = 80_000 * 4096 * 2, 16, 2


def parts(*changes, **more) -> dict[str, int]:
    return {part.name: part.bytes for part in MemoryModel(share_of(*changes, **more)).parts()}


def test_parameters_and_their_optimiser():
    share, found = share_of(), parts()
    assert found["parameters"] == round(share.count(share.parameters) * BF16)
    # Two bfloat16 moments and a float32 copy.
    assert found["optimiser"] == round(share.count(share.optimizer_state) * (2 * BF16 + 4))
    assert not {"optimiser", "gradients", "saved activations"} & parts(mode="forward").keys()


def test_full_rematerialisation_keeps_each_layers_input():
    assert parts()["saved activations"] == LAYERS * ACTIVATION
    kept = [
        parts(f"train.remat={how}")["saved activations"] for how in ("full", "dispatch", "none")
    ]
    assert kept[0] < kept[1] < kept[2]


def test_what_is_kept_by_name_is_counted():
    def saved(remat: str, *changes: str) -> int:
        return parts(f"train.remat={remat}", *changes)["saved activations"]

    least = saved("full")
    # As wide as the residual stream: 32 heads of 128.
    assert saved("attention") - least == saved("residual") - least == LAYERS * ACTIVATION
    assert saved("qkv") - least == 3 * LAYERS * ACTIVATION
    share = share_of()
    hidden = share.streams * share.rows * 16384 * BF16
    assert saved("experts") - least == LAYERS * hidden
    assert saved("mlp") == least, "there is neither a dense layer nor a shared expert"
    together = saved("attention+qkv+dispatch")
    assert together - least == sum(saved(n) - least for n in ("attention", "qkv", "dispatch"))
    assert saved("attention+residual+dispatch+experts+qkv") < saved("none")


def test_heads_are_split_over_the_tensor_axis_and_the_residual_stream_with_the_sequence():
    def kept(name: str, *changes: str) -> int:
        split = ("mesh.expert=8", "mesh.tensor=2", *changes)
        with_it, without = (
            parts(f"train.remat={remat}", *split)["saved activations"] for remat in (name, "full")
        )
        return with_it - without

    assert kept("attention") == kept("residual") == LAYERS * ACTIVATION


def test_what_is_left_open_has_no_size():
    with pytest.raises(UserError, match=r"train\.remat = auto is resolved by compiling"):
        parts("train.remat=auto")


def test_accumulating_adds_a_float32_copy_of_the_gradients():
    once, twice = parts(), parts("train.accumulation=2")
    assert once["gradients"] == once["parameters"]
    assert twice["gradients"] == 3 * once["gradients"]


def test_a_decoding_device_holds_the_cache_of_its_sequences():
    share = share_of(mode="decode")
    assert parts(mode="decode")["cache"] == LAYERS * BF16 * share.cache_values(MOE)
    assert "cache" not in parts()


def test_rows_that_stay_need_fewer_buffers():
    sent, stays = (
        parts("mesh.data=16", "mesh.expert=1", mode="forward")["exchange buffers"],
        parts(mode="forward")["exchange buffers"],
    )
    assert sent < stays


def test_a_pipeline_holds_slots_for_all_its_microbatches():
    naive, tuned = (parts(name=name, mode="forward")["workspace"] for name in (NAIVE, TUNED))
    assert naive > 0
    more = parts("pipeline.microbatches=4", name=TUNED, mode="forward")["workspace"]
    assert more > tuned


@pytest.mark.parametrize("mode", ["forward", "train", "decode"])
def test_parts_come_largest_first_and_none_is_empty(mode):
    sizes = list(parts(mode=mode).values())
    assert sizes == sorted(sizes, reverse=True)
    assert all(size > 0 for size in sizes)
