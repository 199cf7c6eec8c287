"""The groups of figures that a plan consists of; each says whether it is compiled or modelled.

*Compiled* is XLA's own result for the target, *modelled* our arithmetic on stated assumptions.
Nothing here is measured. The whole plan is in `results.py`, how it looks in `tables.py`.
"""

from dataclasses import astuple, dataclass
from typing import Literal

Kind = Literal["compiled", "modelled"]
#: What is planned: a batch's loss, a whole training step, or the next token of every sequence.
Mode = Literal["forward", "train", "decode"]


@dataclass(frozen=True)
class MemoryPart:
    """Bytes of one device's memory, by what they are for."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """One device's memory at the program's peak. The parts add up to the peak."""

    kind: Kind
    #: What the program takes from the device: arguments, results and XLA's one block of temporary
    #: values, which is allocated whole.
    peak_bytes: int
    #: Of it in use at the fullest moment; the rest of the block is lost to fragmentation.
    live_bytes: int
    #: All of the device's memory; JAX, CUDA and NCCL need some of it too.
    capacity_bytes: int
    #: Largest first.
    parts: tuple[MemoryPart, ...]

    @property
    def fits(self) -> bool:
        """Whether the device is large enough."""
        return self.peak_bytes <= self.capacity_bytes

    @property
    def spare_bytes(self) -> int:
        """Capacity minus peak; negative when it does not fit."""
        return self.capacity_bytes - self.peak_bytes


@dataclass(frozen=True)
class Times:
    """Where one device's time goes, in seconds.

        total   = compute + exposed_comm + idle      (idle: a moment between two instructions)
        compute = matmul + attention + other

    Communication is what all collectives take by themselves; the part of it during which nothing
    computes is exposed. `attention` is cuDNN's calls: XLA's own attention is made of matmuls.
    """

    total_s: float
    compute_s: float
    matmul_s: float
    attention_s: float
    other_s: float
    comm_s: float
    exposed_comm_s: float

    @property
    def hidden_comm_s(self) -> float:
        """Communication behind which something computes."""
        return max(0.0, self.comm_s - self.exposed_comm_s)

    def __add__(self, other: "Times") -> "Times":
        return Times(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> "Times":
        return Times(*(factor * value for value in astuple(self)))


NO_TIME = Times(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Pass:
    """One direction through the layers.

    `layer` is one repetition of the scanned unit of layers, divided by the layers in it (in a
    pipeline: of one microbatch); None for a model too short to be scanned. `whole` is all
    repetitions in a step; of a pipeline all ticks, with what is sent between stages.
    """

    layer: Times | None
    whole: Times


@dataclass(frozen=True)
class Step:
    """One call of the program on balanced routing: forward + backward + outside = total."""

    kind: Kind
    forward: Pass
    #: None without gradients.
    backward: Pass | None
    #: What is not in a scan over layers: embedding, head and loss, optimiser, single layers that
    #: precede the repeating ones.
    outside: Times
    total: Times
    #: Part of forward and backward: ticks at which a stage of a pipeline waits to be filled, or
    #: for the others to drain. The program computes then too, and drops what it gets.
    bubble_s: float = 0.0


@dataclass(frozen=True)
class Rows:
    """Rows that a device sends to experts, itself included, in one forward pass (main rounds)."""

    kind: Kind
    #: Rows that hold a token, if routing is uniform.
    filled: int
    #: Empty rows, which make room for imbalance.
    padded: int


@dataclass(frozen=True)
class Nic:
    """How busy a device's network adapter is: bytes over (line rate x time)."""

    kind: Kind
    line_bytes_per_s: float
    #: Over the time that collectives which cross hosts take by themselves.
    inside_windows: float
    #: Over the whole step.
    over_step: float


@dataclass(frozen=True)
class LinkBytes:
    """Bytes that one device sends in a step, over NVLink and over the network."""

    kind: Kind
    intra_host_bytes: float
    inter_host_bytes: float
    intra_host_bytes_per_token: float
    inter_host_bytes_per_token: float
    #: Each token once to each host that one of its experts is on, both ways, for uniform routing.
    #: Arithmetic: modelled. None where no token is exchanged.
    inter_host_lower_bound_bytes: float | None
    #: None for a program without padded rows.
    rows: Rows | None
    #: None on one host, and without a timeline.
    nic: Nic | None


@dataclass(frozen=True)
class CollectiveCost:
    """One collective (all calls of the same kind, bytes and groups): XLA's time beside ours."""

    collective: str
    #: Bytes it reads on one device.
    operand_bytes: int
    #: Devices that talk to each other, and the hosts they are on.
    devices: int
    hosts: int
    calls_per_step: int
    #: compiled: of one call, from XLA's timeline; None where nothing waits for it there.
    xla_s: float | None
    #: modelled: of one call, the alpha-beta model of `hardware/network.py`.
    model_s: float


@dataclass(frozen=True)
class Predicted:
    """Speed. Model FLOPs as `model/flops.py` counts them; MFU is of the chip's dense BF16 peak."""

    kind: Kind
    step_s: float
    tokens_per_s: float
    tflops_per_device: float
    mfu: float
