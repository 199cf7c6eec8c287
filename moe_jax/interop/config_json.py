"""config.json of a Hugging Face model to our `Config` and back, by the table of its family.

The entries are in `families/`, their kinds in `table/`. Weights are not touched here.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import tomli_w

from moe_jax.config import Config, check, parse_config
from moe_jax.errors import UserError
from moe_jax.interop.families import FAMILIES
from moe_jax.interop.files.directory import QUANTIZATION
from moe_jax.interop.same_model import differences
from moe_jax.interop.table.family import Family
from moe_jax.interop.table.setting import Fields, Values

#: Fields of any family that do not change what a model computes.
# fmt: off
IGNORED = frozenset((
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map",
    "bos_token_id", "chunk_size_feed_forward", "dtype", "embd_pdrop", "eos_token_id",
    "ep_size", "finetuning_task", "hidden_dropout", "id2label", "is_decoder",
    "is_encoder_decoder", "label2id", "max_position_embeddings", "model_type",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "resid_pdrop", "return_dict", "router_aux_loss_coef",
    "tokenizer_class", "torch_dtype", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_cache",
))
# fmt: on
#: What an export is not like its source in: it holds plain numbers, and no code.
_NOT_KEPT = (QUANTIZATION, "auto_map")
#: Null unless the source has them: absent, transformers takes those of another model.
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
#: Longest sequences that an imported model gets by default: a choice of memory, not of the model.
USUAL_LENGTH = 4096


def family_of(config_json: Mapping[str, Any]) -> Family:
    """Return the family that a config.json belongs to.

    Raises:
        UserError: it names none, or one that is not known.
    """
    model_type = config_json.get("model_type")
    fits = [family for family in FAMILIES.values() if family.model_type == model_type]
    if not fits:
        known = sorted({family.model_type for family in FAMILIES.values()})
        near = difflib.get_close_matches(str(model_type), known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"config.json: model_type = {model_type!r} is not supported{hint}; known are "
            f"{', '.join(known)}"
        )
    for family in fits:
        fields = {**family.defaults, **config_json}
        if all(fields[key] == value for key, value in family.when.items()):
            return family
    told_apart = {key: config_json.get(key) for family in fits for key in family.when}
    raise UserError(f"config.json: no family {model_type!r} is known with {told_apart}")


def to_config(config_json: Mapping[str, Any]) -> Config:
    """Return our configuration of a model: its model section, and lengths that suit it.

    Raises:
        UserError: a field that changes the computation is not supported, or is not known; names
            the field and its value.
    """
    family = family_of(config_json)
    fields = Fields(family.name, config_json, family.defaults)
    _refuse_unknown(fields, family)
    length = fields.whole("max_position_embeddings")
    model: dict[str, Any] = {}
    for setting in family.settings:
        for path, value in setting.read(fields).items():
            _put(model, path, value)
    rope = model["attention"].get("rope", {})
    if rope.get("scaling") == "longrope":
        length = rope["original_context"]
    raw = {
        "name": family.model_type,
        "model": model,
        "data": {"sequence_length": min(length, USUAL_LENGTH)},
    }
    config = parse_config(tomli_w.dumps(raw), origin="read from config.json")
    check(config)
    return config


def to_config_json(
    config: Config, family: Family | None = None, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the config.json of a model, as `transformers` loads it.

    Args:
        config: the model.
        family: the family to write it as; None takes the source's, or the first that has
            everything the model has.
        source: the config.json that the model was imported from, if it was. What the table does
            not cover (ids of special tokens, the longest context) is kept from it; all of it is
            kept while the model is the same.

    Raises:
        UserError: the family, or every one, lacks something the model has; names the fields.
    """
    if family is None:
        family = family_of(source) if source is not None else derive_family(config)
    if source is not None and family_of(source).name != family.name:
        source = None
    kept = {key: value for key, value in (source or {}).items() if key not in _NOT_KEPT}
    if source is not None and not differences(to_config(source).model, config.model):
        return kept
    written, problems = _written(config, family)
    if problems:
        raise UserError(f"family {family.name!r} cannot hold this model: {'; '.join(problems)}")
    managed = {key for setting in family.settings for key in setting.keys}
    kept = {key: value for key, value in kept.items() if key not in managed}
    length = {"max_position_embeddings": config.data.sequence_length}
    return dict.fromkeys(SPECIAL_TOKENS) | length | kept | written


def derive_family(config: Config) -> Family:
    """Return the first family that has everything the model has.

    Raises:
        UserError: none has; names what the nearest family lacks.
    """
    lacking = {}
    for family in FAMILIES.values():
        problems = _written(config, family)[1]
        if not problems:
            return family
        lacking[family.name] = problems
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    raise UserError(
        f"no family of models has all that this model has; the nearest, {nearest!r}, lacks: "
        f"{'; '.join(lacking[nearest])}"
    )


def _written(config: Config, family: Family) -> tuple[Values, list[str]]:
    """Return the fields of a model in a family, and what they fail to say."""
    written: Values = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.when,
    }
    problems = []
    for setting in family.settings:
        try:
            written |= setting.write(config.model)
        except UserError as error:
            problems.append(str(error))
    length = {"max_position_embeddings": config.data.sequence_length}
    try:
        back = to_config(length | written)
    except UserError as error:
        return written, [*problems, str(error)]
    lost = differences(config.model, back.model)
    # What could not be written is lost too: once is enough.
    return written, problems + [d for d in lost if not any(p.startswith(d) for p in problems)]


def _refuse_unknown(fields: Fields, family: Family) -> None:
    known = IGNORED | set(family.ignored) | set(family.when) | {QUANTIZATION}
    known |= {key for setting in family.settings for key in setting.keys}
    for key, value in fields.given.items():
        if key not in known and value is not None:
            raise fields.refuse(key, value, "the field is not known, and may change the model")


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value
