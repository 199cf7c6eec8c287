"""Checks of the paper's sizes, on plans made by hand."""

from support.planner.claims_evidence import evidence
from support.planner.hand_plans import GB, PAPER, hand_plan

from moe_jax.planner.claims.report import programs
from moe_jax.planner.claims.size import check_buffer, check_layers, check_memory, check_parameters


def test_sixteen_layers_need_what_the_paper_reports_and_four_do_not():
    sixteen, four = check_layers(evidence()).findings
    assert (sixteen.verdict, four.verdict) == ("holds", "fails")
    # 12 GB at 16 layers and 6 GB at 4: half a GB each, so 15 GB at 22.
    assert four.takes == "12 to 15 GB per GPU are 16 to 22 layers"


def test_parameters_of_both_layer_counts():
    every, active = check_parameters(evidence()).findings
    assert [p.at for p in every.points] == ["16 layers", "4 layers"]
    sixteen, four = (p.value for p in every.points)
    ends = 2 * 32000 * 4096 + 4096
    assert sixteen - ends == 4 * (four - ends)
    assert active.points[0].value < sixteen / 6


def test_input_buffer_is_that_of_the_whole_batch():
    whole, share = check_buffer(evidence()).findings
    assert whole.points[0].value == 128 * 10_000 * 4096 * 2
    assert whole.verdict == "holds"
    assert share.points[0].value == whole.points[0].value / 16


def test_memory_holds_forward_and_not_in_training():
    forward, train = check_memory(evidence()).findings
    assert (forward.verdict, forward.takes) == ("holds", "")
    assert [p.at for p in forward.points] == ["EP16", "EP32", "EP64", "EP128", "EP16 x 8"]
    assert train.verdict == "fails"
    parts, enough = train.takes.split(": ")
    assert parts == "parameters and optimiser are 35.0 GB, the rest 35.0 GB"
    assert enough == "no splitting of the former is enough"


def test_memory_says_over_how_many_devices_the_state_must_be_split():
    request = programs(PAPER).requests["paper_ep16.train"]
    less = hand_plan(request, peak_gb=40, state_gb=30)
    _, train = check_memory(evidence(**{"paper_ep16.train": less})).findings
    # 15 - 10 GB are left for it.
    assert train.takes.endswith("split the former over 6 devices")
    assert less.memory.peak_bytes == 40 * GB
