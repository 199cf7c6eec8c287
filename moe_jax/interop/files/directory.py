"""A Hugging Face model directory: which files it has, which may be opened, tensors by name.

Reads safetensors and JSON only; pickled weights are refused, code in the directory is never run.
How the bytes of one file are read is `shard.py`; what tensors and settings mean is `families/`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_jax.errors import UserError
from moe_jax.interop.files.shard import Slices, TensorEntry, read_header, read_slice
from moe_jax.safe_paths import file_inside, is_named, read_json

CONFIG = "config.json"
#: Field of config.json that says how tensors are stored; `tensors/quantized.py` reads it.
QUANTIZATION = "quantization_config"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
#: What turns text into tokens and says how to sample: kept with imported weights, and exported
#: with them. Names as `transformers` writes and reads them.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class _Place:
    path: Path
    entry: TensorEntry


class HfDirectory:
    """A directory as `save_pretrained` writes it, or as the Hugging Face cache keeps it.

    Opening reads config.json, the index and the headers of all shards, so that whatever is missing
    or cut short is known before anything is converted; tensors are read slice by slice.

    Every name that the directory's files give must be that of a file in it: see `safe_paths.py`.

    Args:
        path: the directory.

    Raises:
        UserError: it is none, a file is missing, damaged, pickled or elsewhere; names the file
            and the tensor.

    Attributes:
        config: config.json.
        tensors: what is there, by name.
        bytes_read: tensor data read so far, in bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Unlike that of Path, it takes what can be no path for none.
        if not os.path.isdir(path):
            raise UserError(f"{path} is not a directory: give one with a {CONFIG}")
        self.config = self._json(CONFIG)
        self._places = self._indexed() if self._weights() == INDEX else self._shard(SINGLE)
        self.tensors: Mapping[str, TensorEntry] = {
            name: place.entry for name, place in self._places.items()
        }
        if not self.tensors:
            raise UserError(f"{self.path / SINGLE}: it holds no tensors: fetch it again")
        self.bytes_read = 0

    def read(self, name: str, slices: Slices | None = None) -> np.ndarray:
        """Read a tensor, or a part of it.

        Args:
            name: of the tensor.
            slices: the part, one slice per dimension; None for all of it.

        Raises:
            UserError: there is no such tensor or slice, or its file was cut short meanwhile.
        """
        place = self._places[self.entry(name).name]
        array = read_slice(place.path, place.entry, slices)
        self.bytes_read += array.nbytes
        return array

    def entry(self, name: str) -> TensorEntry:
        """Return shape and dtype of a tensor; raise UserError where there is none."""
        if name not in self._places:
            listing = INDEX if (self.path / INDEX).is_file() else SINGLE
            raise UserError(
                f"{self.path}: no tensor {name}: {listing} does not list it. Fetch the directory "
                f"again, or check that {CONFIG} is that of these weights"
            )
        return self._places[name].entry

    def tokenizer_files(self) -> list[Path]:
        """Return which of `TOKENIZER_FILES` are there, checked to lie in the directory."""
        return [self._inside(name, "") for name in TOKENIZER_FILES if is_named(self.path, name)]

    def _weights(self) -> str:
        """Return the file that says where the weights are, as `transformers` chooses it."""
        for name in (SINGLE, INDEX):
            if is_named(self.path, name):
                return name
        files = sorted(entry.name for entry in self.path.iterdir())
        pickled = [name for name in files if name.removesuffix(".index.json").endswith(PICKLED)]
        if pickled:
            raise _pickle_error(self.path / pickled[0])
        raise UserError(
            f"{self.path}: neither {SINGLE} nor {INDEX} is there, only {', '.join(files)}"
        )

    def _indexed(self) -> dict[str, _Place]:
        listed = self._json(INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise UserError(f"{self.path / INDEX}: no weight_map of tensors: fetch it again")
        places: dict[str, _Place] = {}
        shards: dict[str, dict[str, _Place]] = {}
        for name, file in listed.items():
            if str(file) not in shards:
                shards[str(file)] = self._shard(file, f"{INDEX} puts {name} there: ")
            if name not in shards[file]:
                raise UserError(
                    f"{self.path / file}: {name} is not in it, {INDEX} says it is: fetch both again"
                )
            places[name] = shards[file][name]
        return places

    def _shard(self, name: str, why: str = "") -> dict[str, _Place]:
        path = self._inside(name, why)
        return {tensor: _Place(path, entry) for tensor, entry in read_header(path).items()}

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self._inside(name, ""))

    def _inside(self, name: Any, why: str) -> Path:
        """Return the file of that name, which belongs to the directory and is not pickled."""
        if isinstance(name, str) and name.endswith(PICKLED):
            raise _pickle_error(self.path / name, why)
        return file_inside(self.path, name, why)


def _pickle_error(path: Path, why: str = "") -> UserError:
    return UserError(
        f"{path}: {why}pickled weights can run any code when they are read, so they are not read: "
        "load them with transformers where you trust them and save_pretrained() as safetensors"
    )
