"""What a program's memory is for, told by who writes it."""

import pytest

from moe_jax.planner.compiled.memory import make_memory
from moe_jax.planner.xla.buffers import Buffers, Value
from moe_jax.planner.xla.hlo import parse_hlo

MODULE = parse_hlo("""HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,4]{1,0})->bf16[8,4]{1,0}}

ENTRY %main (p: bf16[8,4], m: f32[8,4], x: s32[2]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0} parameter(0), metadata={op_name="state.params['w']"}
  %m = f32[8,4]{1,0} parameter(1), metadata={op_name="state.opt_state.mu"}
  %x = s32[2]{0} parameter(2), metadata={op_name="batch.tokens"}
  %wide = bf16[2,4]{1,0} negate(%p)
  %rows = bf16[2,4]{1,0} negate(%wide)
  %got = bf16[2,4]{1,0} all-to-all(%rows), replica_groups={{0,1}}, dimensions={0}
  ROOT %grad = bf16[8,4]{1,0} negate(%got)
}
""")  # noqa: E501 (lines as XLA prints them)
LIVE = {"wide": 5, "rows": 7, "got": 11, "grad": 64}


def memory(fragmentation: int = 13):
    live = tuple(Value(size, "main", name, ()) for name, size in LIVE.items())
    temp = sum(LIVE.values()) + fragmentation
    return make_memory(Buffers({0: 64, 1: 128, 2: 8}, 3, 2, temp, live), MODULE, 1000)


@pytest.mark.parametrize(
    ("part", "size"),
    [
        ("parameters", 64),
        ("optimiser", 128),
        ("batch and counters", 8),
        # Sent and received.
        ("exchange buffers", 7 + 11),
        # Of the shape of a parameter.
        ("gradients", 64),
        ("activations", 5),
        # Constants and results.
        ("workspace", 3 + 2),
        ("fragmentation", 13),
    ],
)
def test_every_byte_has_its_purpose(part, size):
    assert {p.name: p.bytes for p in memory().parts}[part] == size


def test_parts_add_up_to_the_peak_and_fragments_are_not_alive():
    found = memory()
    assert sum(part.bytes for part in found.parts) == found.peak_bytes
    assert found.live_bytes == found.peak_bytes - 13
    assert found.capacity_bytes == 1000
