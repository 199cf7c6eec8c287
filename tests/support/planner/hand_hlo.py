# ruff: noqa: E501 (lines as XLA prints them)
"""A hand-written scheduled program with every form of collective and matmul the planner reads."""

HLO = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[8,4]{1,0})->bf16[8,4]{1,0}}

%gemm (p0: bf16[8,4], p1: bf16[4,4]) -> bf16[8,4] {
  %p0 = bf16[8,4]{1,0} parameter(0)
  %p1 = bf16[4,4]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%copying (p2: bf16[8,4]) -> bf16[8,4] {
  %p2 = bf16[8,4]{1,0} parameter(0)
  ROOT %neg = bf16[8,4]{1,0} negate(%p2)
}

%rounds (r: bf16[8,4]) -> bf16[8,4] {
  %r = bf16[8,4]{1,0} parameter(0)
  %w.0 = bf16[4,4]{1,0} constant({...})
  %round-start = ((bf16[8,4]{1,0}), bf16[8,4]{1,0}) all-to-all-start(%r), replica_groups={{0,1,2,3}}, dimensions={0}, backend_config={"collective_backend_config":{"is_sync":false}}
  %round-done = bf16[8,4]{1,0} all-to-all-done(%round-start)
  ROOT %late = bf16[8,4]{1,0} fusion(%round-done, %w.0), kind=kCustom, calls=%gemm
}

%nothing (q: bf16[8,4]) -> bf16[8,4] {
  ROOT %q = bf16[8,4]{1,0} parameter(0)
}

%body (b: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %b = (s32[], /*index=1*/bf16[8,4]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%b), index=1
  %w = bf16[4,4]{1,0} constant({...})
  %first-start = ((bf16[8,4]{1,0}), bf16[8,4]{1,0}) all-to-all-start(%x), channel_id=1, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, metadata={op_name="jit(f)/a2a (first)"}, backend_config={"collective_backend_config":{"is_sync":false}}
  %mm.1 = bf16[8,4]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm
  %mm.2 = (bf16[8,4]{1,0}, s8[64]{0}) custom-call(%mm.1, %w), custom_call_target="__cublas$gemm"
  %first-done = bf16[8,4]{1,0} all-to-all-done(%first-start)
  %bare-start = ((bf16[8,4]{1,0}), bf16[8,4]{1,0}) all-to-all-start(%first-done), replica_groups={{0,1},{2,3}}, dimensions={0}, backend_config={"collective_backend_config":{"is_sync":false}}
  %copy.1 = bf16[8,4]{1,0} fusion(%first-done), kind=kLoop, calls=%copying
  %cond = bf16[8,4]{1,0} conditional(%i, %copy.1, %copy.1), branch_computations={%nothing, %rounds}
  %bare-done = bf16[8,4]{1,0} all-to-all-done(%bare-start)
  ROOT %out = (s32[], bf16[8,4]{1,0}) tuple(%i, %bare-done)
}

%until (c: (s32[], bf16[8,4])) -> pred[] {
  %c = (s32[], bf16[8,4]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (a: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %gather-start = (bf16[8,4]{1,0}, bf16[32,4]{1,0}) all-gather-start(%a), replica_groups={{0,1,2,3}}, dimensions={0}, backend_config={"collective_backend_config":{"is_sync":true}}
  %gather-done = bf16[32,4]{1,0} all-gather-done(%gather-start)
  %permuted = bf16[8,4]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
  %zero = s32[] constant(0)
  %init = (s32[], bf16[8,4]{1,0}) tuple(%zero, %permuted)
  %loop = (s32[], bf16[8,4]{1,0}) while(%init), condition=%until, body=%body
  ROOT %result = bf16[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""
