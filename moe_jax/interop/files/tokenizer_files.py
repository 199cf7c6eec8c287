"""What lies beside the weights of a model: its tokenizer, chat template and generation settings.

A working directory keeps these files of an imported model in `tokenizer/`; a Hugging Face directory
has them beside its weights. Nothing here reads them.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from moe_jax.interop.files.directory import CONFIG, TOKENIZER_FILES
from moe_jax.workdir import TOKENIZER

TOKENIZER_JSON = "tokenizer.json"


def is_hf_directory(path: Path) -> bool:
    """Whether a model's directory is one of Hugging Face, and not a working directory of ours."""
    return (path / CONFIG).is_file()


def tokenizer_folder(model: Path) -> Path | None:
    """Return where a model's tokenizer files are; None for a run that has none of its own.

    Args:
        model: a Hugging Face directory, or a working directory of ours.
    """
    folder = model if is_hf_directory(model) else model / TOKENIZER
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None


def tokenizer_files(model: Path) -> list[Path]:
    """Return the tokenizer files of a working directory; none if it has no folder of them."""
    folder = model / TOKENIZER
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files, following links, into a folder that is made if there are any."""
    for file in files:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file.name)
