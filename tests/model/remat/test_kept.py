"""Policies of `train.remat`: which values they keep; a fused attention is not run again."""

from functools import cache

import jax
import pytest
from jax.ad_checkpoint import checkpoint_name
from support.planner.compiles import compile_for
from support.planner.small_programs import TARGET, config

from moe_jax.config import override
from moe_jax.config.remat import KEEPABLE, remat_of
from moe_jax.errors import UserError
from moe_jax.model.pipeline import LAYER_INPUT
from moe_jax.model.remat.kept import decided_names, kept_of_group, kept_of_layer
from moe_jax.nn.names import ATTENDED, QKV
from moe_jax.planner.planning import Request, make_job
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.loops import executions
from moe_jax.planner.xla.work import work_of


def kept_by(policy, *names: str) -> list[str]:
    """The names whose values backward finds under a policy."""

    def is_kept(name: str) -> bool:
        (named,) = jax.make_jaxpr(lambda x: checkpoint_name(x, name))(1.0).eqns
        return policy(named.primitive, *(v.aval for v in named.invars), **named.params)

    return [name for name in names if is_kept(name)]


def test_a_set_keeps_its_names_and_a_group_its_layers_inputs_too():
    names = (ATTENDED, QKV, LAYER_INPUT)
    assert kept_by(kept_of_layer("full"), *names) == []
    assert kept_by(kept_of_layer("attention"), *names) == [ATTENDED]
    assert kept_by(kept_of_layer("attention+qkv"), *names) == [ATTENDED, QKV]
    assert kept_by(kept_of_group("full"), *names) == [LAYER_INPUT]
    assert kept_by(kept_of_group("qkv"), *names) == [QKV, LAYER_INPUT]
    assert kept_of_group("none") is None


@pytest.mark.parametrize("ask", [kept_of_layer, kept_of_group, decided_names])
def test_what_is_not_decided_is_refused(ask):
    with pytest.raises(UserError, match=r"train\.remat = auto is resolved by compiling"):
        ask("auto")


#: Longer sequences than the small program's: attention's result then is what it costs most for.
SIZES = ("train.global_batch=16", "data.sequence_length=1024")


@cache
def compiled(remat: str):
    """Calls of attention per step, and the bytes that the step takes, on an H100."""
    request = Request(override(config(), [*SIZES, f"train.remat={remat}"]), TARGET, "train")
    program = compile_for(TARGET, make_job(request))
    module = parse_hlo(program.hlo_text)
    times = executions(module)
    calls = dict.fromkeys(("attention_forward", "attention_backward"), 0)
    for computation in module.values():
        for instruction in computation.instructions:
            kind = work_of(instruction, computation, module).kind
            if kind in calls:
                calls[kind] += times[computation.name]
    return calls["attention_forward"], calls["attention_backward"], program.taken_bytes


class TestCompiled:
    pytestmark = [pytest.mark.compile_target, pytest.mark.slow]  # noqa: RUF012

    @pytest.mark.parametrize(
        ("remat", "again"), [("full", True), ("qkv", True), ("attention", False)]
    )
    def test_kept_attention_is_not_run_again(self, remat, again):
        forward, backward, _ = compiled(remat)
        assert backward > 0
        assert forward == (2 if again else 1) * backward

    def test_what_keeps_more_takes_more(self):
        sizes = [compiled(r)[2] for r in ("attention", "attention+dispatch", remat_of(KEEPABLE))]
        assert compiled("full")[2] < sizes[1]
        assert sizes[0] < sizes[1] < sizes[2] < compiled("none")[2]
