# ruff: noqa: E501 (lines as XLA prints them)
"""A hand-written scheduled program with loops in loops, a branch, attention and fusions that slice.

With rates and a cluster that make its times easy to work out.
"""

from moe_jax.hardware.rates import Rates
from moe_jax.hardware.topology import named_topology

CLUSTER = named_topology("h100", 2, 2)
#: A product of 64 x 64 matrices takes a second, an attention call ten, the rest nothing.
RATES = Rates(2 * 64**3, 64**3, 4 * 64 * 4.5 / 10, 1.0, 1e30, 1e30, "made up")

TRIPS = '"known_trip_count":{"n":"%d"}'


def _while(name, body, trips, op_name):
    known = "{" + (TRIPS % trips if trips else "") + "}"
    return (
        f"  %{name} = (s32[], bf16[64,64]{{1,0}}) while(%init), condition=%until, body=%{body}, "
        f'metadata={{op_name="{op_name}"}}, backend_config={known}\n'
    )


FMHA = (
    '"intermediate_tensor_shape": {"dimensions": ["1", "2", "8", "8"]}, "sliding_window_length": %d'
)


def attention(name, target, window=0):
    config = '{"cudnn_fmha_backend_config": {' + FMHA % window + "}}"
    return (
        f"  %{name} = (bf16[1,2,8,4]{{3,2,1,0}}, f32[1,2,8]{{2,1,0}}, u8[0]{{0}}) custom-call(%q, %q, %q), "
        f'custom_call_target="{target}", metadata={{op_name="jit(f)/attention"}}, backend_config={config}\n'
    )


LOOPS = (
    """HloModule jit_f, is_scheduled=true

%gemm (p0: bf16[64,64], p1: bf16[4,64,64], p2: s32[]) -> bf16[64,64] {
  %p0 = bf16[64,64]{1,0} parameter(0)
  %p1 = bf16[4,64,64]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %slice = bf16[1,64,64]{2,1,0} dynamic-slice(%p1, %p2, %p2, %p2), dynamic_slice_sizes={1,64,64}
  %flat = bf16[64,64]{1,0} bitcast(%slice)
  ROOT %dot = bf16[64,64]{1,0} dot(%p0, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%rows (r0: bf16[64,64], r1: s32[32,1]) -> bf16[32,64] {
  %r0 = bf16[64,64]{1,0} parameter(0)
  %r1 = s32[32,1]{1,0} parameter(1)
  ROOT %gathered = bf16[32,64]{1,0} gather(%r0, %r1), offset_dims={1}
}

%until (c: (s32[], bf16[64,64])) -> pred[] {
  %c = (s32[], bf16[64,64]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

%inner (i: (s32[], bf16[64,64])) -> (s32[], bf16[64,64]) {
  %i = (s32[], bf16[64,64]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%i), index=0
  %x = bf16[64,64]{1,0} get-tuple-element(%i), index=1
  %w = bf16[4,64,64]{2,1,0} constant({...})
  %mm = bf16[64,64]{1,0} fusion(%x, %w, %n), kind=kCustom, calls=%gemm
  ROOT %out = (s32[], bf16[64,64]{1,0}) tuple(%n, %mm)
}

%many (m: bf16[64,64]) -> bf16[64,64] {
  %m = bf16[64,64]{1,0} parameter(0)
  ROOT %twice = bf16[64,64]{1,0} add(%m, %m)
}

%none (z: bf16[64,64]) -> bf16[64,64] {
  ROOT %z = bf16[64,64]{1,0} parameter(0)
}

%layer (b: (s32[], bf16[64,64])) -> (s32[], bf16[64,64]) {
  %b = (s32[], bf16[64,64]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%b), index=0
  %y = bf16[64,64]{1,0} get-tuple-element(%b), index=1
  %q = bf16[1,2,8,4]{3,2,1,0} constant({...})
"""
    + attention("fmha", "__cudnn$fmhaSoftmax")
    + """  %init = (s32[], bf16[64,64]{1,0}) tuple(%k, %y)
"""
    + _while("search", "inner", 3, "jit(f)/layers/while/body/searchsorted/while")
    + """  %branch = bf16[64,64]{1,0} conditional(%k, %y, %y), branch_computations={%many, %none}
  %again = (s32[], bf16[64,64]{1,0}) tuple(%k, %branch)
  ROOT %done = (s32[], bf16[64,64]{1,0}) copy(%again)
}

%chunk (u: (s32[], bf16[64,64])) -> (s32[], bf16[64,64]) {
  %u = (s32[], bf16[64,64]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%u), index=0
  %v = bf16[64,64]{1,0} get-tuple-element(%u), index=1
  %sum-start = bf16[64,64]{1,0} all-reduce-start(%v), replica_groups={{0,1,2,3}}, to_apply=%none
  %sum-done = bf16[64,64]{1,0} all-reduce-done(%sum-start)
  ROOT %end = (s32[], bf16[64,64]{1,0}) tuple(%j, %sum-done)
}

ENTRY %main (a: bf16[64,64]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %at = s32[32,1]{1,0} constant({...})
  %picked = bf16[32,64]{1,0} fusion(%a, %at), kind=kLoop, calls=%rows
  %init = (s32[], bf16[64,64]{1,0}) tuple(%zero, %a)
"""
    + _while("forward", "layer", 5, "jit(f)/jvp(layers)/while")
    + _while("backward", "layer", 5, "jit(f)/transpose(jvp(layers))/while")
    + _while("loss", "chunk", 7, "jit(f)/shard_map/while")
    + _while("until_done", "chunk", 0, "jit(f)/sampling/while")
    + """  ROOT %result = bf16[64,64]{1,0} get-tuple-element(%loss), index=1
}
"""
)
