"""The families of models that can be read and written: a table of tensors and settings each."""

from moe_jax.interop.families.llama import LLAMA
from moe_jax.interop.families.mixtral import MIXTRAL
from moe_jax.interop.family import Family

#: By name.
FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, MIXTRAL)}
