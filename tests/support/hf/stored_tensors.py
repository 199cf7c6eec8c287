"""The tensors in a directory's safetensors files, as PyTorch reads them. No tests here."""

from pathlib import Path

import torch
from safetensors import safe_open


def stored_tensors(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return (dtype, shape, bytes) of every tensor by name."""
    tensors = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                tensor = opened.get_tensor(name)
                data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                tensors[name] = (str(tensor.dtype), tuple(tensor.shape), data)
    return tensors
