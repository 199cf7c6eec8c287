"""A small program's lanes, made by hand: forward and backward, exposed and hidden collectives."""

from support.planner.hand_schedules import dump

from moe_jax.planner.pictures.lanes import Lanes, layer_lanes
from moe_jax.planner.xla.timeline import parse_timelines

#: One all-to-all half hidden, two in flight together, one that blocks.
FORWARD = (
    ("gemm_fusion.1", 0, 100),
    ("a2a-start.16", 100, 101),
    ("attention", 101, 151),
    ("a2a-done.16", 199, 200),
    ("a2a-start.4.b", 200, 201),
    ("a2a-start.8", 201, 202),
    ("loop_add_fusion", 202, 350),
    ("a2a-done.4.b", 350, 351),
    ("a2a-done.8", 351, 352),
    ("sync", 352, 362),
    ("last", 362, 372),
)
BACKWARD = (("gemm_fusion.2", 0, 50), ("a2a-start.4", 50, 51), ("a2a-done.4", 149, 150))


def timelines():
    forward = parse_timelines(dump(*FORWARD, op_name="jit(f)/while/body/td,df->tf/dot_general"))
    backward = parse_timelines(dump(*BACKWARD, op_name="jit(f)/transpose(jvp())/td,df->tf/dot"))
    return forward + backward


def hand_lanes() -> tuple[Lanes, ...]:
    return layer_lanes(timelines())
