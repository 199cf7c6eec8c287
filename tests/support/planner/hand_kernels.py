# ruff: noqa: E501 (lines as XLA prints them)
"""A hand-written program of two of our kernels: one with a single result, one with three."""

#: A kernel's code, as HLO prints its bytes.
CODE = r"ML\EFR\01 to_apply=body (\22"
_KERNEL = (
    "custom-call(%x, %w), "
    'custom_call_target="mosaic_gpu_v2", frontend_attributes={latency_metadata="250",moe_jax_flops="FLOPS",moe_jax_kind="matmul_grouped"}, '
    'metadata={op_name="jit(f)/grouped_rows/mpmd_map"}, '
    f'backend_config={{kernel_hash = "r\\8D", module = "{CODE}", use_custom_barrier = false}}'
)
_SINGLE, _GATED = (_KERNEL.replace("FLOPS", str(n * 2 * 64**3)) for n in (1, 2))

KERNELS = f"""HloModule jit_f, is_scheduled=true

ENTRY %main (x: bf16[64,64], w: bf16[1,64,64]) -> bf16[64,64] {{
  %x = bf16[64,64]{{1,0}} parameter(0)
  %w = bf16[1,64,64]{{2,1,0}} parameter(1)
  %down = bf16[64,64]{{1,0}} {_SINGLE}
  %gated = (bf16[64,64]{{1,0}}, bf16[64,64]{{1,0}}, bf16[64,64]{{1,0}}) {_GATED}
  ROOT %hidden = bf16[64,64]{{1,0}} get-tuple-element(%gated), index=2
}}
"""
