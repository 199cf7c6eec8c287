"""What XLA must be told about GPUs that are not there: the target text, the estimator's settings.

The numbers of a chip live in `gpus.toml`, those of links in `hardware/clusters.toml`; starting a
compile in `jobs.py`.
"""

from dataclasses import dataclass

from moe_jax.errors import UserError
from moe_jax.hardware.clusters import Cluster, known_clusters
from moe_jax.hardware.gpus import Gpu
from moe_jax.hardware.network import NETWORK_EFFICIENCY
from moe_jax.hardware.topology import Topology, cluster_topology

# XLA's PrimitiveType numbers (xla_data.proto), by what executes them.
_S32, _U32, _F16, _F32, _F64, _BF16 = 4, 8, 10, 11, 12, 16
_INT8 = (2, 6)
_FP8 = (19, 20, 23, 24, 25, 28, 29)
_FP4 = (32,)

#: What all four generations share (CUDA C++ Programming Guide, compute capabilities).
_COMMON = """  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  ecc_enabled: true
"""

# The CUDA stack the compile pretends to meet: what JAX's CUDA 12 wheels are built against.
_DRIVER, _TOOLKIT, _CUDNN = "13.0.0", "12.8.0", (9, 10, 0)


@dataclass(frozen=True)
class Estimator:
    """Settings of XLA's analytical collective model; XLA takes them as integers.

    XLA's own (25 GB/s, 31 µs per peer, peers in series) make an all-to-all across hosts 7 x too
    slow. `estimator_for` derives the rate from the cluster; a round trip of 1 µs and as much per
    chunk are `network.PEER_OVERHEAD_S`.
    """

    #: GB/s (not Gb/s, whatever XLA's flag is called) of one GPU's network adapter.
    nic_gbytes_per_s: int
    rtt_us: int = 1
    chunk_prep_us: int = 1

    def options(self, devices_per_host: int) -> dict[str, str]:
        """Return XLA's option of them all. It reaches the compiler only through the environment.

        Since jaxlib 0.12 a host's devices are a partition, and 0.10 wants them as a node. XLA says
        nothing of a name it does not know, and takes all devices for one host's.
        """
        settings = (
            f"nic_speed_gbps={self.nic_gbytes_per_s},rtt_us={self.rtt_us},"
            f"chunk_prep_us={self.chunk_prep_us},gpus_per_node={devices_per_host},"
            f"partition_size={devices_per_host}"
        )
        return {"xla_gpu_analytical_latency_estimator_options": settings}


def estimator_for(cluster: Cluster) -> Estimator:
    """Return XLA's estimator settings for a cluster: the rate that its adapters reach."""
    rate = NETWORK_EFFICIENCY * cluster.network_bytes_per_s
    return Estimator(nic_gbytes_per_s=max(1, round(rate / 1e9)))


@dataclass(frozen=True)
class Target:
    """A cluster to compile for: `hosts` x `devices_per_host` GPUs of one kind.

    Attributes:
        cluster: the servers and their links; None takes the known cluster of the GPU's name.
        estimator: settings of XLA's collective model; None derives them from the cluster.
    """

    gpu: Gpu
    hosts: int = 1
    devices_per_host: int = 8
    cluster: Cluster = None  # type: ignore[assignment]  # always set after __post_init__
    estimator: Estimator = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.hosts < 1 or self.devices_per_host < 1:
            raise UserError(
                f"a target needs at least 1 host and 1 device per host, got hosts = {self.hosts}, "
                f"devices_per_host = {self.devices_per_host}"
            )
        if self.cluster is None:
            object.__setattr__(self, "cluster", _known_cluster(self.gpu))
        if self.estimator is None:
            object.__setattr__(self, "estimator", estimator_for(self.cluster))
        # Refuses a host with more devices than the cluster's servers have.
        assert self.topology.devices == self.devices

    @property
    def devices(self) -> int:
        """GPUs of all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def topology(self) -> Topology:
        """Hosts, links and memory.

        Raises:
            TopologyError: a server of the cluster holds fewer devices.
        """
        return cluster_topology(
            self.cluster, self.gpu.memory_bytes, self.hosts, self.devices_per_host
        )

    @property
    def has_timeline(self) -> bool:
        """Whether XLA's analytical estimator knows this GPU, in hosts of this size.

        Seen with jaxlib 0.10.2: Ampere gets placeholder costs (5 ms for any collective, 1 µs for
        any compute), Hopper and Blackwell real ones; but collectives of hosts with 3, 5, 6 or 7
        devices cost 5 ms too.
        """
        return float(self.gpu.compute_capability) >= 9 and self.devices_per_host in (1, 2, 4, 8)

    @property
    def why_no_timeline(self) -> str:
        """What `has_timeline` lacks, and what to plan for instead."""
        return (
            f"XLA estimates no times for hosts of {self.devices_per_host} x {self.gpu.name} "
            f"(compute capability {self.gpu.compute_capability}): it knows h100, h200 and b200, in "
            "hosts of 1, 2, 4 or 8"
        )


def _known_cluster(gpu: Gpu) -> Cluster:
    known = known_clusters()
    if gpu.name not in known:
        raise UserError(
            f"no cluster of {gpu.name!r} is known (there are {', '.join(known)}): pass "
            f"Target(cluster=...), or add [clusters.{gpu.name}] to the file that has the GPU"
        )
    return known[gpu.name]


def target_text(gpu: Gpu) -> str:
    """Return XLA's `GpuTargetConfigProto` for `gpu`, as proto text."""
    major, minor = gpu.compute_capability.split(".")
    # Hopper and newer: the instructions of sm_90a, sm_100a (wgmma and its successors).
    extension = "ACCELERATED_FEATURES" if int(major) >= 9 else "NONE"
    cudnn = ".".join(map(str, _CUDNN))
    return f"""gpu_device_info {{
{_COMMON}  shared_memory_per_core: {gpu.shared_bytes_per_sm}
  shared_memory_per_block_optin: {gpu.shared_bytes_per_block}
  core_count: {gpu.sm_count}
  fpus_per_core: {gpu.fp32_lanes_per_sm}
  memory_bandwidth: {gpu.memory_bandwidth:.0f}
  l2_cache_size: {gpu.l2_bytes}
  clock_rate_ghz: {gpu.clock_hz / 1e9:.7g}
  device_memory_size: {gpu.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  scalar_unit_description {{
{_rates(_vector_rates(gpu))}  }}
  matrix_unit_description {{
{_rates(_tensor_rates(gpu))}  }}
  pcie_bandwidth: {gpu.pcie_bandwidth:.0f}
  device_interconnect_info {{ active_links: {gpu.nvlink_links} }}
  name: "{gpu.device_kinds[0]}"
  driver_version: "{_DRIVER}"
  runtime_version: "{_TOOLKIT}"
  compile_time_toolkit_version: "{_TOOLKIT}"
  dnn_version: "{cudnn}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} patch: {_CUDNN[2]} }}
device_description_str: "{gpu.device_kinds[0]}"
"""


#: (element type, clock in Hz, units per SM, FMA per unit and clock)
_Rate = tuple[int, float, int, int]


def _vector_rates(gpu: Gpu) -> list[_Rate]:
    clock, lanes = gpu.clock_hz, gpu.fp32_lanes_per_sm
    return [
        (_S32, clock, gpu.int32_lanes_per_sm, 1),
        (_U32, clock, gpu.int32_lanes_per_sm, 1),
        (_F16, clock, lanes, gpu.vector_bf16_per_lane),
        (_F32, clock, lanes, 1),
        (_F64, clock, gpu.fp64_lanes_per_sm, 1),
        (_BF16, clock, lanes, gpu.vector_bf16_per_lane),
    ]


def _tensor_rates(gpu: Gpu) -> list[_Rate]:
    """Return the rates of tensor cores: half per doubling of the element; f32 runs as TF32."""
    clock, bf16 = gpu.tensor_clock_hz, gpu.tensor_bf16_per_core
    generation = int(gpu.compute_capability.split(".")[0])
    bytes_1 = _INT8 + (_FP8 if generation >= 9 else ())
    half_bytes = _FP4 if generation >= 10 else ()
    return [
        (_F16, clock, 4, bf16),
        (_BF16, clock, 4, bf16),
        (_F32, clock, 4, bf16 // 2),
        (_F64, gpu.clock_hz, 4, gpu.tensor_fp64_per_core),
        *((key, clock, 4, 2 * bf16) for key in bytes_1),
        *((key, clock, 4, 4 * bf16) for key in half_bytes),
    ]


def _rates(rates: list[_Rate]) -> str:
    return "".join(
        f"    rate_infos {{ key: {key} value {{ clock_rate_ghz: {clock / 1e9:.7g} "
        f"units_per_core: {units} ops_per_clock: {ops} }} }}\n"
        for key, clock, units, ops in rates
    )
