"""Plans of real compiles: what they say must follow from the config by arithmetic of our own."""

import dataclasses
import json
import math
from types import SimpleNamespace

import jax
import pytest
from support.planner.hand_plans import hand_plan
from support.planner.small_programs import MODES, TARGET, compiled, config, request

from moe_jax.config import ConfigError, override
from moe_jax.config.remat import kept_names
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.mesh.xla_options import MEMORY_FRACTION
from moe_jax.model.flops import flops_per_token
from moe_jax.moe.exchange.contract import capacity
from moe_jax.planner import planning
from moe_jax.planner.compile.target import Target
from moe_jax.planner.compiled.link_bytes import calls_per_step, sent
from moe_jax.planner.modelled.bounds import inter_host_lower_bound
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.planning import Request, make_job, make_plan, plan, plan_all
from moe_jax.planner.report.figures import Times
from moe_jax.planner.xla.buffers import parse_buffers
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.loops import executions
from moe_jax.planner.xla.overlap import layer_timelines
from moe_jax.planner.xla.work import matmul_flops, work_of
from moe_jax.training.memory_limit import usable

compiles = [pytest.mark.compile_target, pytest.mark.slow]
SHARDS, TOKENS, SLICE = 4, 1024, 512
D_MODEL, D_FF, LAYERS, STREAMS, BF16 = 256, 1024, 2, 2, 2


@pytest.fixture(scope="module")
def plans():
    return {mode: make_plan(request(mode), compiled()[mode]) for mode in MODES}


def places_per_slice():
    moe = config().model.moe
    factor = config().exchange.capacity_factor
    return moe.num_experts * capacity(SLICE, moe.top_k, moe.num_experts, factor, SHARDS)


def rows_per_slice():
    """With those that hold each token's weight: three bfloat16."""
    return places_per_slice() + SHARDS * math.ceil(places_per_slice() / SHARDS * 3 / D_MODEL)


class TestCrossChecks:
    pytestmark = compiles

    @pytest.mark.parametrize(
        # Backward moves rows again: the dispatch once more, and the gradients of both ways.
        ("mode", "moves"),
        [("forward", 2), ("train", 5)],
    )
    def test_bytes_of_the_exchange_are_those_of_the_capacity(self, mode, moves):
        module = parse_hlo(compiled()[mode].hlo_text)
        exchanged = [c for c in calls_per_step(module) if c.collective.kind == "all-to-all"]
        assert {c.collective.operand_bytes for c in exchanged if c.times} == {
            rows_per_slice() * D_MODEL * BF16
        }
        assert sum(c.times for c in exchanged) == moves * LAYERS * STREAMS

    def test_half_of_an_exchange_over_two_hosts_crosses_them(self, plans):
        calls = calls_per_step(parse_hlo(compiled()["forward"].hlo_text))
        exchanged = [c for c in calls if c.collective.kind == "all-to-all"]
        inter = sum(c.times * sent(c.collective, TARGET.topology).inter_host for c in exchanged)
        assert inter == 2 * LAYERS * STREAMS * rows_per_slice() * D_MODEL * BF16 / 2
        # What else crosses are counters.
        assert inter <= plans["forward"].wire.inter_host_bytes < inter * 1.001

    def test_flops_are_the_models_plus_padded_rows(self, plans):
        module = parse_hlo(compiled()["forward"].hlo_text)
        times = executions(module)
        done = sum(
            times[c.name] * matmul_flops(i, c, module)
            for c in module.values()
            for i in c.instructions
            if i.opcode == "dot"
        )
        padded = LAYERS * STREAMS * (places_per_slice() - 2 * SLICE)
        assert plans["forward"].wire.rows.padded == padded
        beside = LAYERS * STREAMS * (rows_per_slice() - places_per_slice())
        padding = (padded + beside) * 2 * 2 * D_MODEL * D_FF
        assert done == TOKENS * flops_per_token(config()).matmul + padding

    @pytest.mark.parametrize(
        # Full rematerialisation: backward computes forward's attention again.
        ("mode", "times_forward"),
        [("forward", 1), ("train", 2)],
    )
    def test_attention_flops_are_the_models(self, mode, times_forward):
        module = parse_hlo(compiled()[mode].hlo_text)
        times = executions(module)
        works = [
            (times[c.name], work_of(i, c, module))
            for c in module.values()
            for i in c.instructions
            if i.opcode == "custom-call"
        ]
        forward = TOKENS * flops_per_token(config()).attention
        for kind, expected in (
            ("attention_forward", times_forward * forward),
            ("attention_backward", 2 * forward if mode == "train" else 0),
        ):
            assert sum(n * work.flops for n, work in works if work.kind == kind) == expected

    @pytest.mark.parametrize("mode", MODES)
    def test_memory_is_xlas_and_its_parts_add_up(self, mode, plans):
        memory, program = plans[mode].memory, compiled()[mode]
        buffers = parse_buffers(program.buffers)
        assert buffers.live_bytes == memory.live_bytes == program.peak_bytes
        assert memory.peak_bytes == buffers.total_bytes
        taken = program.argument_bytes + program.output_bytes - program.alias_bytes
        assert memory.peak_bytes == pytest.approx(taken + program.temp_bytes, rel=1e-3)
        assert sum(part.bytes for part in memory.parts) == memory.peak_bytes

    def test_memory_parts_of_a_training_state_are_known(self, plans):
        parts = {part.name: part.bytes for part in plans["train"].memory.parts}
        share = Share(config(), "train")
        # bfloat16 parameters; two bfloat16 moments and a float32 master copy of each, those of
        # dense parameters split over all devices (ZeRO).
        assert parts["parameters"] == pytest.approx(2 * share.count(share.parameters), rel=0.01)
        assert parts["optimiser"] == pytest.approx(8 * share.count(share.optimizer_state), rel=0.01)
        # The input of each layer; besides, a counter or two of the losses.
        saved = LAYERS * TOKENS * D_MODEL * BF16
        assert saved <= parts["saved activations"] < 1.001 * saved
        # One gradient per parameter; weights of experts besides per stream.
        assert parts["gradients"] >= 0.5 * parts["parameters"]
        assert parts["exchange buffers"] >= rows_per_slice() * D_MODEL * BF16

    def test_lower_bound_stands_beside_what_is_sent(self, plans):
        for mode in ("forward", "train"):
            wire = plans[mode].wire
            bound = inter_host_lower_bound(config(), TARGET.topology, mode)
            assert wire.inter_host_lower_bound_bytes == bound
            assert bound < wire.inter_host_bytes


class TestPlan:
    pytestmark = compiles

    @pytest.mark.parametrize("mode", MODES)
    def test_json_has_the_promised_keys_and_each_group_its_kind(self, mode, plans):
        found = json.loads(json.dumps(plans[mode].to_json(), allow_nan=False))
        assert found["peak_bytes_per_device"] == found["memory"]["peak_bytes"]
        assert found["fits"] is True
        for key in ("total_s", "compute_s", "comm_s", "exposed_comm_s"):
            assert found["step"]["forward"]["layer"][key] > 0
        assert (found["step"]["backward"] is not None) == (mode == "train")
        assert found["wire"]["intra_host_bytes"] > 0
        assert found["wire"]["inter_host_bytes"] > found["wire"]["inter_host_lower_bound_bytes"] > 0
        for key in ("step_s", "tokens_per_s", "tflops_per_device", "mfu"):
            assert found["predicted"][key] > 0
        for group in ("memory", "wire"):
            assert found[group]["kind"] == "compiled"
        for group in ("step", "predicted"):
            assert found[group]["kind"] == "modelled"
        assert found["config"]["name"] == "small"
        assert found["target"]["gpu"] == "h100"
        assert found["versions"]["jax"] == jax.__version__
        assert "timelines" not in found

    def test_times_add_up(self, plans):
        step = plans["train"].step
        parts = step.forward.whole + step.backward.whole + step.outside
        assert dataclasses.astuple(parts) == pytest.approx(dataclasses.astuple(step.total))
        assert step.forward.whole.total_s == pytest.approx(LAYERS * step.forward.layer.total_s)
        for times in (step.forward.layer, step.backward.layer, step.total):
            spent = times.matmul_s + times.attention_s + times.other_s
            assert times.compute_s == pytest.approx(spent)
            assert times.total_s == pytest.approx(times.compute_s + times.exposed_comm_s, rel=1e-3)
        assert plans["train"].predicted.step_s == step.total.total_s

    def test_timelines_carry_attention_at_its_real_cost(self, plans):
        (layer,) = layer_timelines(plans["forward"].timelines).forward
        calls = [i for i in layer.instructions if i.target.startswith("__cudnn$fmha")]
        times: Times = plans["forward"].step.forward.layer
        assert sum(i.duration_us for i in calls) == pytest.approx(1e6 * times.attention_s)
        # XLA's estimate of each.
        assert all(i.duration_us != pytest.approx(10) for i in calls)

    def test_tables_mark_their_lines_and_list_assumptions(self, plans):
        page = plans["train"]._repr_html_()
        for text in ("small, train", "compiled", "modelled", "backward, one layer", "Assumptions"):
            assert text in page

    def test_decode_reads_a_full_cache(self, plans):
        assert any("full cache of 512 tokens" in a for a in plans["decode"].assumptions)
        assert plans["decode"].config.exchange.streams == 1
        parts = {part.name: part.bytes for part in plans["decode"].memory.parts}
        # Keys and values of 2 layers, 2 sequences on each device, 512 tokens, 2 heads of 64, bf16.
        assert parts["cache"] == 2 * 2 * 2 * 512 * 2 * 64 * 2
        assert "gradients" not in parts
        # Its layers are unrolled, and told from what surrounds them.
        step = plans["decode"].step
        assert step.forward.whole.total_s == pytest.approx(LAYERS * step.forward.layer.total_s)
        assert 0 < step.outside.total_s < step.forward.whole.total_s < step.total.total_s
        assert step.backward is None
        assert plans["decode"].predicted.tokens_per_s == pytest.approx(
            config().train.global_batch / plans["decode"].step.total.total_s
        )

    def test_a_calibration_replaces_xlas_estimates(self, plans):
        slow = calibration(matmul_flops_per_s=1e12)
        found = make_plan(request("forward"), compiled()["forward"], slow)
        flops = TOKENS * flops_per_token(config()).matmul
        assert found.step.total.matmul_s > flops / 1e12
        assert found.step.total.matmul_s > plans["forward"].step.total.matmul_s
        assert "calibration: one H100" in found.assumptions
        assert "calibration: none" in plans["forward"].assumptions

    def test_gpu_without_a_timeline_gives_memory_and_bytes(self, plans):
        a100 = Target(gpu_by_name("a100-80gb"), hosts=2, devices_per_host=2)
        found = make_plan(Request(config(), a100, "forward"), compiled()["forward"])
        assert (found.step, found.predicted, found.wire.nic) == (None, None, None)
        assert found.memory.peak_bytes == plans["forward"].memory.peak_bytes
        assert found.wire.inter_host_bytes == plans["forward"].wire.inter_host_bytes
        assert found.to_json()["predicted"] is None
        assert "no timeline" in found._repr_html_()

    def test_memory_that_is_missing_is_told(self, plans):
        tight = dataclasses.replace(
            plans["train"].memory, capacity_bytes=plans["train"].memory.peak_bytes - 1
        )
        assert not tight.fits
        assert tight.spare_bytes == -1
        assert "MISSING" in dataclasses.replace(plans["train"], memory=tight)._repr_html_()


class MadeUp:
    """Stands for XLA: a set takes as many parts of `room` as it has names, and one; all, ten."""

    def __init__(self, monkeypatch, room: float):
        self.asked = []
        self.part = usable(MEMORY_FRACTION * TARGET.gpu.memory_bytes) / room
        monkeypatch.setattr(planning, "compile_all", self.compile_all)
        monkeypatch.setattr(planning, "make_plan", self.make_plan)

    def compile_all(self, target, jobs):
        assert target == TARGET
        self.asked.append([job.kwargs["config"]["train"]["remat"] for job in jobs])
        return tuple(SimpleNamespace(taken_bytes=self.size(job)) for job in jobs)

    def size(self, job) -> float:
        remat = job.kwargs["config"]["train"]["remat"]
        return self.part * (10 if remat == "none" else 1 + len(kept_names(remat)))

    def make_plan(self, request, program, calibration):
        assert program.taken_bytes == self.size(make_job(request)), "the program is the set's"
        return hand_plan(request)


class TestWhatIsKeptIsFoundByCompiling:
    def planned(self, monkeypatch, room: float, *remats: str):
        made_up = MadeUp(monkeypatch, room)
        configs = [override(config(), [f"train.remat={remat}"]) for remat in remats]
        return plan_all([Request(c, TARGET, "train") for c in configs]), made_up.asked

    @pytest.mark.parametrize(("room", "names"), [(1.5, 0), (3.5, 2), (8, 5)])
    def test_more_memory_keeps_more(self, monkeypatch, room, names):
        (found,), asked = self.planned(monkeypatch, room, "auto")
        assert len(kept_names(found.config.train.remat)) == names
        assert all(len(jobs) == 1 for jobs in asked)
        assert 2 <= len(asked) <= 5
        note, *rest = found.assumptions
        assert note.startswith(f"train.remat = auto: {found.config.train.remat}, of the sets")
        assert all(f"{remat}: " in note for (remat,) in asked)
        assert rest == list(hand_plan(Request(config(), TARGET)).assumptions)

    def test_everything_where_it_fits(self, monkeypatch):
        (found,), _ = self.planned(monkeypatch, 10.5, "auto")
        assert found.config.train.remat == "none"

    def test_what_is_named_is_compiled_once_beside_it(self, monkeypatch):
        found, asked = self.planned(monkeypatch, 1.5, "full", "auto", "dispatch")
        assert asked[0] == ["full", "dispatch"]
        assert [plan.config.train.remat for plan in found] == ["full", "full", "dispatch"]

    def test_nothing_fits(self, monkeypatch):
        with pytest.raises(UserError, match=r"train\.remat = auto: the training step takes"):
            self.planned(monkeypatch, 0.9, "auto")

    def test_layers_that_follow_each_other_cannot_be_read(self):
        in_line = override(config(), ["train.scan_layers=false"])
        with pytest.raises(UserError, match=r"plan with train\.scan_layers=true"):
            Request(in_line, TARGET, "train").check()

    def test_forward_keeps_nothing_whatever_the_config_says(self):
        left_open = override(config(), ["train.remat=auto"])
        assert not Request(left_open, TARGET, "forward").is_open
        assert Request(left_open, TARGET, "train").is_open

    @pytest.mark.compile_target
    @pytest.mark.slow
    def test_a_real_program_of_a_small_gpu(self):
        gpu = dataclasses.replace(TARGET.gpu, memory_bytes=62 * 2**20)
        small = Target(gpu, hosts=2, devices_per_host=2)
        found = plan(override(config(), ["train.remat=auto"]), small, "train")
        assert found.config.train.remat not in ("auto", "none")
        limit = usable(MEMORY_FRACTION * gpu.memory_bytes)
        assert found.memory.peak_bytes <= limit * 1.001
        assert "MiB compiled; spares" in found.assumptions[0]


def calibration(**rates) -> Calibration:
    names = ("matmul", "attention_forward", "attention_backward")
    values = {f"{name}_flops_per_s": 1e15 for name in names}
    values |= {"gather_bytes_per_s": 1e12, "memory_bytes_per_s": 1e12}
    return Calibration(
        gpu="h100", hardware="one H100", date="2026-11-23", versions={}, **(values | rates)
    )


def test_config_that_does_not_fill_the_target_is_refused_before_compiling():
    with pytest.raises(ConfigError, match="mesh has 8 devices"):
        plan(override(config(), ["mesh.expert=8", "model.moe.num_experts=8"]), TARGET)


def test_calibration_of_another_gpu_is_refused_before_compiling():
    other = dataclasses.replace(calibration(), gpu="h200")
    with pytest.raises(ValueError, match="measured on 'h200' and the target is 'h100'"):
        plan_all([Request(config(), TARGET)], calibration=other)


def test_decoding_in_a_pipeline_is_refused_before_compiling():
    piped = override(config(), ["mesh.pipe=2", "mesh.expert=2"])
    with pytest.raises(ValueError, match=r"mesh.pipe \(2\) must be 1 to generate"):
        plan(piped, TARGET, "decode")


@pytest.mark.compile_target
@pytest.mark.slow
def test_tensor_parallelism_across_hosts_is_pointed_out(plans):
    wide = override(config(), ["mesh.expert=1", "mesh.tensor=4"])
    found = make_plan(Request(wide, TARGET, "forward"), compiled()["forward"])
    assert any("mesh.tensor = 4 spans 2 hosts" in a for a in found.assumptions)
    assert not any("spans" in a for a in plans["forward"].assumptions)


def test_programs_of_several_targets_come_back_in_order(monkeypatch):
    def compile_all(target, jobs):
        return tuple((target.hosts, job.kwargs["config"]["name"]) for job in jobs)

    monkeypatch.setattr("moe_jax.planner.planning.compile_all", compile_all)
    monkeypatch.setattr("moe_jax.planner.planning.make_plan", lambda request, made, _: made)
    other = dataclasses.replace(TARGET, hosts=1, devices_per_host=4)
    asked = [
        Request(override(config(), [f"name={name}"]), target, "forward")
        for name, target in (("a", TARGET), ("b", other), ("c", TARGET))
    ]
    assert plan_all(asked) == ((2, "a"), (1, "b"), (2, "c"))
