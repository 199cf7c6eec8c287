"""Rules of the mesh: each broken one is named with its values and a remedy that works."""

import pytest
from support.config_problems import problems

CASES = {
    "pipeline_without_pipe": (
        ["pipeline.microbatches=4"],
        ["microbatches = 4", "mesh.pipe > 1", "train.accumulation"],
    ),
    "pipeline_microbatches": (
        ["mesh.pipe=2", "mesh.expert=2", "pipeline.microbatches=3"],
        ["microbatches (3)", "the 8 sequences", "2 or 4", "12 or 18"],
    ),
    "virtual_stages_starve": (
        ["mesh.pipe=2", "pipeline.virtual_stages=2", "train.remat=full"],
        ["virtual_stages = 2", "mesh.pipe (2)", "microbatches is 1"],
    ),
    "layers_of_a_stage": (
        ["mesh.pipe=2", "train.scan_layers=false"],
        ["train.scan_layers = false", "mesh.pipe = 2", "set train.scan_layers=true"],
    ),
    "virtual_stages_keep": (
        ["mesh.pipe=2", "pipeline.virtual_stages=2", "pipeline.microbatches=2"],
        ["train.remat = none", "a copy of parameters", "full, dispatch or auto"],
    ),
    "fsdp": (
        ["mesh.fsdp=3", "train.global_batch=24"],
        ["d_model (256)", "mesh.fsdp (3)", "sharding.dense = fsdp", "255 or 258"],
    ),
    "fsdp_expert": (
        ["mesh.fsdp=64", "train.global_batch=512", "sharding.dense=fsdp_expert"],
        ["d_model (256)", "mesh.fsdp (64) x mesh.expert (8)", "to 512"],
    ),
    "tensor_heads": (
        ["mesh.tensor=3", "model.moe.d_ff=513", "data.sequence_length=255"],
        ["model.attention.heads (8)", "mesh.tensor (3)", "6 or 9", "2 or 4"],
    ),
    "tensor_vocab": (
        ["mesh.tensor=8", "model.vocab_size=260"],
        ["model.vocab_size (260)", "256 or 264"],
    ),
    "tensor_kv_heads": (
        ["model.attention.heads=24", "model.attention.kv_heads=6", "mesh.tensor=4"],
        ["kv_heads (6)", "mesh.tensor (4)", "whole heads", "3 or 6"],
    ),
    "tensor_sequence": (
        ["mesh.tensor=4", "data.sequence_length=250"],
        ["data.sequence_length (250)", "248 or 252"],
    ),
    "sequence_whole": (
        ["mesh.tensor=2", "sharding.sequence=whole"],
        ["mesh.tensor = 2", "mesh.expert = 8", "sharding.sequence=split"],
    ),
}
FINE = {
    "pipeline": ["mesh.pipe=2", "pipeline.microbatches=2"],
    "pipeline_interleaved": [
        *("mesh.pipe=2", "pipeline.microbatches=2", "pipeline.virtual_stages=2"),
        "train.remat=dispatch",
    ],
    "fsdp": ["mesh.fsdp=2"],
    "fsdp_expert": ["mesh.fsdp=2", "sharding.dense=fsdp_expert"],
    "tensor": ["mesh.tensor=2"],
    "fewer_kv_heads_than_devices": ["mesh.tensor=4", "model.attention.kv_heads=2"],
    "whole_sequences_without_an_exchange": [
        *("mesh.expert=1", "mesh.tensor=2", "sharding.sequence=whole", "data.sequence_length=255"),
    ],
    "dense_model_ignores_width_of_experts": [
        *("mesh.tensor=2", "model.layers=['dense']", "model.moe.d_ff=513"),
    ],
}
BROKEN = pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
ALLOWED = pytest.mark.parametrize("changes", FINE.values(), ids=FINE)


@BROKEN
def test_broken_rule_names_values_and_remedy(changes, expected):
    (problem,) = problems(changes)
    for part in expected:
        assert part in problem


@ALLOWED
def test_consistent_config_passes(changes):
    assert not problems(changes)
