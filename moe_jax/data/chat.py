"""Chat templates: from messages to the text that a model was tuned on.

Templates are Jinja programs that came with somebody's weights: they run in Jinja's sandbox, with
what `transformers` gives them and nothing else. Which template a model has is `prompting.py`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from moe_jax.errors import UserError

#: One message: `role`, `content`, and whatever else the template knows.
Message = Mapping[str, Any]


class ChatTemplate:
    """Renders messages as `tokenizer.apply_chat_template` of `transformers` does.

    Args:
        source: the template.
        special_tokens: texts that templates write, such as `bos_token` and `eos_token`.
        origin: where the template is from, for errors.

    Raises:
        UserError: it is no template, or jinja2 is not installed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], origin: str):
        self._special_tokens, self._origin = dict(special_tokens), origin
        try:
            self._template = _environment().from_string(source)
        except ImportError as error:
            raise UserError(
                f"{origin}: chat templates need jinja2: pip install 'moe-jax[hf]'"
            ) from error
        except Exception as error:  # Jinja's own, and Python's for what it compiles to
            raise UserError(f"{origin}: the chat template is broken: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, special tokens included.

        Args:
            messages: plain JSON values; entries that are None count as absent.
            add_generation_prompt: whether the text ends where the answer begins.
            variables: what else the template knows, such as `tools` or `enable_thinking`.

        Raises:
            UserError: no messages, one without a role, or the template refuses them.
        """
        if not messages:
            raise UserError("a chat needs at least one message")
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise UserError(f"message {place} of the chat has no role, such as 'user'")
        given = {"tools": None, "documents": None, **self._special_tokens, **variables}
        # A copy, and plain: a template must not reach the caller's objects.
        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            return self._template.render(
                messages=json.loads(json.dumps(plain)),
                add_generation_prompt=add_generation_prompt,
                **given,
            )
        except Exception as error:  # whatever a program in a template runs into
            raise UserError(f"{self._origin}: the template refuses this chat: {error}") from error


def _environment() -> Any:
    """Return the environment that templates are written for."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    # Jinja's own filter escapes for HTML.
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _generation_tag() -> type:
    """Return the extension for `{% generation %}`: an answer, printed as it is."""
    from jinja2.ext import Extension
    from jinja2.nodes import CallBlock, Node
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return caller()

    return Generation
