"""Opening a Hugging Face directory as a model of ours: its tensors, its family, its config.

Reading the tensors is `load.py` (onto a mesh) and `convert.py` (into a checkpoint).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moe_jax.config import Config, check, override
from moe_jax.errors import UserError
from moe_jax.interop.config_json import family_of, to_config
from moe_jax.interop.counts import check_counts
from moe_jax.interop.files.directory import HfDirectory
from moe_jax.interop.files.tokenizer_files import TOKENIZER_JSON
from moe_jax.interop.same_model import differences
from moe_jax.interop.table.family import Family
from moe_jax.interop.tensors.match import TensorSource
from moe_jax.interop.tensors.quantized import dequantize

ImportDType = Literal["auto", "float32", "bfloat16"]
#: Key of what a checkpoint's `info` says about the model that it was imported from.
ORIGIN = "hugging_face"
#: Learning rate of an imported config: that of torchtune's recipes for tuning all weights.
TUNING_RATE = 2e-5


@dataclass(frozen=True)
class ImportedModel:
    """A Hugging Face directory, opened.

    Attributes:
        directory: its files.
        source: its weights.
        family: what they are called.
        config: the model, with the precision that was asked for.
    """

    directory: HfDirectory
    source: TensorSource
    family: Family
    config: Config

    def origin(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the directory, so that an export is like it.

        Its config.json, and the dtype of its tensors, most of which have the same.
        """
        dtypes = {name: entry.dtype.name for name, entry in self.source.tensors.items()}
        usual = Counter(dtypes.values()).most_common(1)[0][0]
        others = {name: dtype for name, dtype in dtypes.items() if dtype != usual}
        return {"config": self.directory.config, "dtype": usual, "other_dtypes": others}


def open_model(
    path: str | Path, overrides: Iterable[str] = (), dtype: ImportDType = "auto"
) -> ImportedModel:
    """Open a Hugging Face directory; no tensor data is read yet.

    Args:
        path: the directory.
        overrides: values of our config, such as "mesh.expert=8"; the model itself must stay.
        dtype: of parameters and computation; "auto" is bfloat16 for models stored in that, and
            float32 for all others.

    Raises:
        UserError: the directory is incomplete or damaged, or its model is not supported; names
            the file, the field or the tensor.
    """
    directory = HfDirectory(path)
    check_counts(directory.path, directory.config, directory.tensors)
    config = to_config(directory.config)
    family = family_of(directory.config)
    source = dequantize(directory, directory.config)
    if dtype == "auto":
        widths = Counter(entry.dtype.name for entry in source.tensors.values())
        dtype = "bfloat16" if widths.most_common(1)[0][0] == "bfloat16" else "float32"
    chosen = [f"precision.{name}={dtype}" for name in ("params", "compute")]
    if dtype == "bfloat16":
        # Steps of tuning are smaller than what bfloat16 weights can take in.
        chosen.append("precision.master=float32")
    # Our default is for fresh weights and would undo these.
    chosen.append(f"optimizer.learning_rate={TUNING_RATE}")
    tokenizer = directory.path.absolute() / TOKENIZER_JSON
    if TOKENIZER_JSON in {file.name for file in directory.tokenizer_files()}:
        chosen.append(f"data.tokenizer={tokenizer}")
    final = override(config, [*chosen, *overrides])
    if changed := differences(final.model, config.model):
        raise UserError(
            f"{path}: its weights are of another model than --set asks for ({'; '.join(changed)}): "
            "set only what is not part of the model, such as mesh, precision or data"
        )
    check(final)
    return ImportedModel(directory, source, family, final)
