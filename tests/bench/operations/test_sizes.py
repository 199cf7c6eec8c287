"""What one device meets in one stream of one layer, by hand."""

import pytest
from support.places import CONFIGS

from moe_jax.bench.operations.sizes import PAPER, Sizes, sizes_of
from moe_jax.config import Config, load_config, override


def test_sizes_without_a_config_are_those_of_the_papers_file():
    assert load_config(CONFIGS / "paper_ep16.toml") == PAPER


def on(*changes: str) -> Sizes:
    return sizes_of(override(PAPER, changes))


def test_sizes_of_the_paper():
    found = Sizes(1, 10_000, 1, 25_008, 32, 32, 16_384, 32_000, 2000, 10_000)
    assert sizes_of(PAPER) == found
    assert found.tokens == 10_000


def test_tensor_parallelism_splits_what_a_device_multiplies():
    sizes = on("mesh.tensor=8")
    assert (sizes.heads, sizes.d_ff, sizes.vocab) == (4, 2048, 4000)
    # Each of 8 x 16 devices sends an expert 1.25 x 1,250 x 2 / 16 = 195.3 rows, rounded up.
    assert (sizes.routed, sizes.rows) == (1250, 8 * 16 * 196)


@pytest.mark.parametrize(
    ("transport", "experts", "rows"),
    [
        # 10,000 x 2 choices, spread over 16 experts.
        ("local", 16, 1250),
        # Of everybody's 320,000 choices those of the expert that is here, in the mean.
        ("all_gather", 1, 20_000),
    ],
)
def test_rows_are_those_that_experts_compute(transport, experts, rows):
    sizes = on(f"exchange.transport={transport}")
    assert (sizes.local_experts, sizes.rows) == (experts, rows)


def test_a_pipelines_microbatches_are_whole_sequences():
    changes = ["mesh.pipe=2", "pipeline.microbatches=4", "train.global_batch=8"]
    small = override(Config(), [*changes, "data.sequence_length=16", "train.loss_chunk=8"])
    sizes = sizes_of(small)
    # Of 8 sequences 2 go through the stages at a time; their logits are shared out: 4 of each.
    assert (sizes.sequences, sizes.length, sizes.logit_rows) == (2, 16, 4 * 8)
