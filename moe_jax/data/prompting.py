"""What lies beside a tokenizer.json: special tokens, the chat template, and what ends an answer.

Read as `transformers` reads it. The tokenizer itself is in `tokenizers.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_jax.data.chat import ChatTemplate
from moe_jax.errors import UserError
from moe_jax.safe_paths import file_inside, is_named, read_json

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
MODEL_CONFIG = "config.json"


@dataclass(frozen=True)
class Prompting:
    """How texts for a model begin and end."""

    #: Texts of special tokens by name, such as `bos_token`.
    special_tokens: Mapping[str, str]
    #: Ids that end an answer; none where no file names any.
    end_ids: frozenset[int]
    #: None for a model that was not tuned to chat.
    chat: ChatTemplate | None


def read_prompting(directory: Path) -> Prompting:
    """Read a directory's settings; files that are not there say nothing.

    Args:
        directory: of the tokenizer or of the model.

    Raises:
        UserError: a file is broken, or leads out of the directory.
    """
    settings = _read_settings(directory, TOKENIZER_CONFIG)
    named = settings if "added_tokens_decoder" in settings else _both(directory, settings)
    special_tokens = _special_tokens(named)
    return Prompting(
        special_tokens, _end_ids(directory), _chat(directory, settings, special_tokens)
    )


def _both(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Directories from before `added_tokens_decoder` have a second file, which wins."""
    return settings | _read_settings(directory, SPECIAL_TOKENS)


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Return texts by name; a token is a text, or an object with its text as `content`."""
    texts = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            texts[name] = text
    return texts


def _end_ids(directory: Path) -> frozenset[int]:
    """Return what the generation config says; without one, what the model's config does."""
    for name in (GENERATION_CONFIG, MODEL_CONFIG):
        settings = _read_settings(directory, name)
        ids = settings.get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise UserError(
                f"{directory / name}: eos_token_id = {settings['eos_token_id']!r} must be a token "
                "id or a list of them"
            )
        return frozenset(ids)
    return frozenset()


def _chat(
    directory: Path, settings: dict[str, Any], special_tokens: dict[str, str]
) -> ChatTemplate | None:
    """Return the template; a file of its own goes before the entry in the tokenizer's config."""
    if is_named(directory, TEMPLATE):
        path = file_inside(directory, TEMPLATE)
        return ChatTemplate(path.read_text(encoding="utf-8"), special_tokens, str(path))
    source, origin = settings.get("chat_template"), f"{directory / TOKENIZER_CONFIG}: chat_template"
    if isinstance(source, list):
        # Several by name; the one called default is for chats without tools.
        source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
        if source is None:
            raise UserError(f"{origin} has several templates and none is called default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"{origin} must be a text, or a list of named ones")
    return ChatTemplate(source, special_tokens, origin)


def _read_settings(directory: Path, name: str) -> dict[str, Any]:
    if not is_named(directory, name):
        return {}
    return read_json(file_inside(directory, name))
