"""The families of models that can be read and written: a table of tensors and settings each.

A new one is a file here and its line below: rows that say where each parameter of ours lies, and
entries that say what each field of its config.json is to us. `tests/support/hf/hf_cases.py`
compares it with `transformers`.
"""

from moe_jax.interop.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, DEEPSEEK_V3_HALVES
from moe_jax.interop.families.gpt_oss import GPT_OSS
from moe_jax.interop.families.granite import GRANITE_MOE
from moe_jax.interop.families.llama import LLAMA
from moe_jax.interop.families.mixtral import MIXTRAL, PHIMOE
from moe_jax.interop.families.olmoe import OLMOE
from moe_jax.interop.families.qwen import QWEN2_MOE, QWEN3, QWEN3_MOE
from moe_jax.interop.table.family import Family

#: By name. A model that fits several families is written as the first.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAMA,
        QWEN3,
        MIXTRAL,
        QWEN3_MOE,
        QWEN2_MOE,
        OLMOE,
        GRANITE_MOE,
        PHIMOE,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        DEEPSEEK_V3_HALVES,
        GPT_OSS,
    )
}
