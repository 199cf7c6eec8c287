"""The packed training step for GPUs that are not there: cuDNN's calls, no logits of whole rows."""

import re

import pytest
from support.planner.small_programs import OVERRIDES, PAPER, TARGET

from moe_jax.config import load_config
from moe_jax.model.flops import flops_per_token
from moe_jax.nn.dot_attention.documents import SHORTER, length_classes
from moe_jax.planner.compile.jobs import compile_all
from moe_jax.planner.planning import Request, make_job
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.loops import executions
from moe_jax.planner.xla.work import work_of

pytestmark = [pytest.mark.compile_target, pytest.mark.slow]

LENGTH = 1024
PACKED = (f"data.sequence_length={LENGTH}", "data.document_mask=segments", "train.remat=none")


@pytest.fixture(scope="module")
def config():
    sinks = ("model.attention.sinks=per_head", "model.attention.windows=[0, 200]")
    return load_config(PAPER, (*OVERRIDES, *PACKED, *sinks))


@pytest.fixture(scope="module")
def module(config):
    (compiled,) = compile_all(TARGET, [make_job(Request(config, TARGET, "train").prepared())])
    assert not re.search(rf"\[[\d,]*{LENGTH},{LENGTH}\]", compiled.hlo_text)
    return parse_hlo(compiled.hlo_text)


def test_every_class_of_documents_has_its_calls(module):
    calls = [
        i
        for computation in module.values()
        for i in computation.instructions
        if 'custom_call_target="__cudnn$fmha' in i.attributes
    ]
    for kind in length_classes(1, LENGTH):
        mine = [i for i in calls if f",{kind.longest}," in i.shape]
        assert {"fmhaSoftmaxBackward" in i.attributes for i in mine} == {True, False}
        assert all((SHORTER in i.attributes) == (kind.longest < LENGTH) for i in mine)


def test_attention_flops_are_the_models(config, module):
    """Once, though several calls share the documents."""
    times = executions(module)
    works = [
        (times[c.name], work_of(i, c, module))
        for c in module.values()
        for i in c.instructions
        if i.opcode == "custom-call"
    ]
    tokens = config.train.global_batch * LENGTH // TARGET.devices
    forward = tokens * flops_per_token(config).attention
    for kind, expected in (("attention_forward", forward), ("attention_backward", 2 * forward)):
        assert sum(n * work.flops for n, work in works if work.kind == kind) == expected
