"""A small profile of a GPU, written as `jax.profiler` writes them."""

from pathlib import Path

from jax.profiler import ProfileData

#: Stream, kernel, instruction, start and duration in µs. The all-to-all of the first half runs
#: beside a matmul that takes 30 instead of 20; that of the second runs alone for 10, and so does an
#: all-reduce; then nothing for 5.
KERNELS = (
    (1, "nvjet_tst_128x256", "gemm.1", 0, 20),
    (1, "nvjet_tst_128x256", "gemm.1", 20, 30),
    (2, "ncclDevKernel_SendRecv", "all-to-all-start", 20, 30),
    (1, "loop_add_fusion", "loop_add_fusion", 50, 10),
    (2, "ncclDevKernel_SendRecv", "all-to-all-start", 55, 15),
    (2, "ncclDevKernel_AllReduce_Sum_f32_RING_LL", "all-reduce-start", 70, 10),
    (1, "mosaic_gpu_kernel", "custom-call.2", 85, 15),
)


def write_profile(folder: Path, kernels=KERNELS) -> Path:
    """Writes a profile of one GPU where `jax.profiler` would; returns the file."""
    names = {name: i + 1 for i, name in enumerate(dict.fromkeys(k[1] for k in kernels))}
    lines = []
    for stream in sorted({kernel[0] for kernel in kernels}):
        events = "".join(
            f"events {{ metadata_id: {names[name]} offset_ps: {start * 10**6} "
            f"duration_ps: {duration * 10**6} "
            f'stats {{ metadata_id: 1 str_value: "{op}" }} }} '
            for on, name, op, start, duration in kernels
            if on == stream
        )
        lines.append(f'lines {{ id: {stream} name: "Stream #{stream}(Compute)" {events} }} ')
    lines.append('lines { id: 9 name: "XLA Modules" events { metadata_id: 1 duration_ps: 9 } } ')
    metadata = "".join(
        f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }} '
        for name, i in names.items()
    )
    stats = 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } } '
    text = f'planes {{ name: "/device:GPU:0" {"".join(lines)} {metadata} {stats} }}'
    file = folder / "plugins" / "profile" / "2026_01_01" / "host.xplane.pb"
    file.parent.mkdir(parents=True)
    file.write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
    return file
