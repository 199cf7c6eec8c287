"""Train, plan and run Mixture-of-Experts transformers in JAX with one expert per device.

    import moe_jax

    config = moe_jax.load_config("configs/quickstart.toml", ["train.steps=20"])
    run = moe_jax.train(config, workdir="runs/first")   # trains, or goes on
    print(run.history["loss"])                          # a NumPy array
    print(run.model().generate("def "))                 # = moe_jax.load("runs/first")
    print(moe_jax.plan("configs/paper_ep16.toml", gpu="h100", hosts=2))  # needs no GPU

Mistakes in what you give raise `moe_jax.UserError`, whose message has the remedy. Importing the
package costs nothing: JAX is imported when the first of these names is used that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_jax.config import Config, load_config
    from moe_jax.errors import UserError
    from moe_jax.inference.loading import from_hf, load
    from moe_jax.inference.sampling_options import SamplingOptions
    from moe_jax.planner.api import plan
    from moe_jax.planner.compile.target import Target
    from moe_jax.training.api import train

    __version__: str

__all__ = [
    "Config",
    "SamplingOptions",
    "Target",
    "UserError",
    "__version__",
    "from_hf",
    "load",
    "load_config",
    "plan",
    "train",
]

#: Public name -> the module that has it.
_HOMES = {
    "Config": "moe_jax.config",
    "SamplingOptions": "moe_jax.inference.sampling_options",
    "Target": "moe_jax.planner.compile.target",
    "UserError": "moe_jax.errors",
    "from_hf": "moe_jax.inference.loading",
    "load": "moe_jax.inference.loading",
    "load_config": "moe_jax.config",
    "plan": "moe_jax.planner.api",
    "train": "moe_jax.training.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, and keep it."""
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("moe-jax")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
