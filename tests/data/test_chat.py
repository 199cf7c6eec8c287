"""Chat templates against transformers, and what a template may not do."""

import re
from datetime import datetime

import pytest
from support.chat_files import CHATML, write_tokenizer

from moe_jax.data.chat import ChatTemplate
from moe_jax.data.tokenizers import ByteTokenizer, HfTokenizer

MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {%- generation %}{{- ' ' + message['content'] | trim + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""
#: Blocks on lines of their own, loop controls, namespaces, tools as JSON, extra variables.
ELABORATE = """{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'ignored' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% if message.name is defined %}
[{{ message.name }}]
    {% endif %}
{{ ns.count }} {{ message.role }}: {{ message.content | tojson }} {{ message | tojson(indent=2) }}
    {% if ns.count > 3 %}
        {% break %}
    {% endif %}
{% endfor %}
{% if tools is not none %}
{{ tools | tojson }}
{% endif %}
{% if thinking | default(true) %}<think>{% endif %}
{{ pad_token is defined }}{{ bos_token }}
"""
CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "  Grüße, 日本 \n"},
    {"role": "assistant", "content": " Hello. ", "name": None},
    {"role": "user", "content": "Add 1 and 2", "name": "ada"},
]


def both(tmp_path, template, **settings):
    """Returns our tokenizer and transformers' of the same directory."""
    transformers = pytest.importorskip("transformers")
    path = write_tokenizer(tmp_path, chat_template=template, **settings)
    return HfTokenizer(path), transformers.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("template", [CHATML, MISTRAL, ELABORATE], ids=["ml", "inst", "all"])
def test_chats_are_those_of_transformers(tmp_path, template, generation):
    ours, theirs = both(tmp_path, template)
    for length in range(1, len(CHAT) + 1):
        chat = CHAT[:length]
        asked = {"add_generation_prompt": generation}
        want = theirs.apply_chat_template(chat, tokenize=False, **asked)
        assert ours.prompting.chat.render(chat, **asked) == want
        ids = theirs.apply_chat_template(chat, **asked).input_ids
        assert ours.encode_chat(chat, **asked).tolist() == ids


def test_tools_and_other_variables_reach_the_template(tmp_path):
    ours, theirs = both(tmp_path, ELABORATE)
    more = {"tools": [{"type": "function", "function": {"name": "f<"}}], "thinking": False}
    got = ours.prompting.chat.render(CHAT, **more)
    assert got == theirs.apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=True, **more
    )
    assert '"f<"' in got
    assert "<think>" not in got


def test_a_template_can_tell_the_day():
    text = ChatTemplate("{{ strftime_now('%Y') }}", {}, "here").render(CHAT)
    assert abs(int(text) - datetime.now().year) <= 1


def test_what_a_template_raises_names_the_template(tmp_path):
    ours, _ = both(tmp_path, MISTRAL)
    where = re.escape(str(tmp_path))
    with pytest.raises(ValueError, match=rf"{where}.*chat_template: .*roles must alternate"):
        ours.encode_chat([CHAT[0], CHAT[1], CHAT[1]])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{{ undefined_thing.field }}",
        "{{ messages[0].content + 1 }}",
        "{{ range(10000000) }}",
    ],
)
def test_a_template_gets_no_further_than_its_chat(template):
    with pytest.raises(ValueError, match="here: the template refuses this chat"):
        ChatTemplate(template, {}, "here").render(CHAT)


def test_a_broken_template_says_so():
    with pytest.raises(ValueError, match="here: the chat template is broken"):
        ChatTemplate("{% for %}", {}, "here")


@pytest.mark.parametrize(
    ("messages", "message"),
    [([], "at least one message"), ([{"content": "x"}], "message 0 .* no role")],
)
def test_what_is_no_chat_is_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        ChatTemplate("", {}, "here").render(messages)


def test_without_a_template_there_is_no_chat(tmp_path):
    path = write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        HfTokenizer(path).encode_chat(CHAT)
    with pytest.raises(ValueError, match="bytes have no chat template"):
        ByteTokenizer().encode_chat(CHAT)
