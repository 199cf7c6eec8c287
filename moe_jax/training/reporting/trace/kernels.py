"""What kind of work a kernel is, by its name and that of the instruction it belongs to."""

import re

from moe_jax.training.reporting.trace.events import Kernel

OTHER = "elementwise, copies"
#: As they are shown.
KINDS = ("matmul", "grouped matmul", "attention", "sort, scatter, gather", OTHER)
#: Whose slow-down beside collectives is looked at.
PRODUCTS = ("matmul", "grouped matmul", "attention")

#: XLA's names, and those that JAX gives on a CPU.
_COLLECTIVES = {
    "all-to-all": r"ragged.all.to.all|all.to.all|alltoall",
    "reduce-scatter": r"reduce.scatter|reducescatter|psum.scatter",
    "all-gather": r"all.gather|allgather",
    "collective-permute": r"collective.permute|ppermute",
    "all-reduce": r"all.reduce|allreduce|^psum|^pmax|^pmin|^pmean",
    #: NCCL's kernel for several of them, where no instruction is named.
    "send, receive": r"nccl.*sendrecv",
    "other collective": r"nccl",
}
#: The first that fits.
_KINDS = {
    "attention": r"sdpa|fmha|flash|attention",
    "grouped matmul": r"mosaic|pallas|ragged.dot|grouped",
    "matmul": r"gemm|nvjet|cublas|cutlass|xmma|wgmma|\bdot\b|^dot|_dot|ynn.fusion|conv",
    "sort, scatter, gather": r"sort|scatter|gather|radix|top.?k|dynamic.(update.)?slice",
}


def collective(event: Kernel) -> str:
    """Return the kind of collective, "" if it is none: of the instruction, if that says it."""
    for text in (event.op, event.name):
        for kind, pattern in _COLLECTIVES.items():
            if re.search(pattern, text.lower()):
                return kind
    return ""


def kind_of(event: Kernel) -> str:
    """Return what kind of work a kernel is that is no collective."""
    text = f"{event.name} {event.op}".lower()
    if "mosaic" in text and "attention" in event.scope.lower():
        # All kernels written in Mosaic may bear one name.
        return "attention"
    return next((kind for kind, named in _KINDS.items() if re.search(named, text)), OTHER)
