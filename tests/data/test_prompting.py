"""What lies beside a tokenizer.json, against transformers where it reads the same."""

import json

import pytest
from support.chat_files import CHATML, SPECIAL, byte_level, write_tokenizer

from moe_jax.data.prompting import read_prompting
from moe_jax.data.tokenizers import ByteTokenizer, HfTokenizer

CHAT = [{"role": "user", "content": "hi"}]


def write_json(path, value):
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("begins", [True, False], ids=["with <s>", "as it is"])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}], ids=str)
def test_prompts_begin_as_those_of_transformers(tmp_path, begins, settings):
    transformers = pytest.importorskip("transformers")
    ours = HfTokenizer(write_tokenizer(tmp_path, byte_level(begins=begins), **settings))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("def add", " a", "<|im_start|>x</s>", "日本"):
        assert ours.encode_prompt(text).tolist() == theirs(text).input_ids
    assert (ours.encode_prompt("a")[0] == SPECIAL.index("<s>")) == begins


def test_an_empty_prompt_begins_a_document(tmp_path):
    assert ByteTokenizer().encode_prompt("").tolist() == [256]
    without = HfTokenizer(write_tokenizer(tmp_path, byte_level(begins=False)))
    assert without.encode_prompt("").tolist() == [without.end_id]
    with_begin = HfTokenizer(write_tokenizer(tmp_path, byte_level(begins=True)))
    assert with_begin.encode_prompt("").tolist() == [SPECIAL.index("<s>")]


def test_end_ids_are_those_that_transformers_generates_with(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert HfTokenizer(tokenizer).end_ids == {SPECIAL.index("</s>")}
    write_json(tmp_path / "config.json", {"eos_token_id": 7})
    assert HfTokenizer(tokenizer).end_ids == {7}
    write_json(tmp_path / "generation_config.json", {"do_sample": True})
    assert HfTokenizer(tokenizer).end_ids == {7}
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [4, 2]})
    assert HfTokenizer(tokenizer).end_ids == {4, 2}
    assert ByteTokenizer().end_ids == {256}


def test_an_end_of_document_may_be_named_beside_the_tokenizer(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<stop>"])
    vocabulary = tokenizer.to_str().replace("</s>", "<other>")
    named = write_tokenizer(tmp_path, type(tokenizer).from_str(vocabulary), eos_token="<stop>")
    assert HfTokenizer(named).end_id == tokenizer.token_to_id("<stop>")


def test_special_tokens_are_texts_or_objects(tmp_path):
    write_tokenizer(tmp_path, bos_token={"content": "<s>", "lstrip": False}, pad_token=None)
    tokens = read_prompting(tmp_path).special_tokens
    assert tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}


def test_older_directories_name_special_tokens_in_a_file_of_their_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    template = "{{ bos_token }}{{ eos_token }}"
    for settings in ({}, {"added_tokens_decoder": {}}):
        write_tokenizer(tmp_path, chat_template=template, **settings)
        write_json(tmp_path / "special_tokens_map.json", {"eos_token": {"content": "</s>"}})
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        want = theirs.apply_chat_template(CHAT, tokenize=False)
        assert read_prompting(tmp_path).chat.render(CHAT) == want


def test_a_template_of_its_own_file_goes_first(tmp_path):
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, chat_template="in the config")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }} its own\n")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    want = theirs.apply_chat_template(CHAT, tokenize=False)
    assert read_prompting(tmp_path).chat.render(CHAT) == want == "<s> its own"


def test_of_several_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": CHATML}]
    write_tokenizer(tmp_path, chat_template=named)
    assert read_prompting(tmp_path).chat.render(CHAT).startswith("<|im_start|>user\nhi")
    write_tokenizer(tmp_path, chat_template=named[:1])
    with pytest.raises(ValueError, match="none is called default"):
        read_prompting(tmp_path)


def test_an_empty_directory_says_nothing(tmp_path):
    found = read_prompting(tmp_path)
    assert (found.special_tokens, found.end_ids, found.chat) == ({}, frozenset(), None)


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "config.json"])
def test_files_that_lead_out_of_the_directory_are_refused(tmp_path, name):
    outside = tmp_path / "secret"
    outside.write_text("{}")
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / name).symlink_to(outside)
    with pytest.raises(ValueError, match=rf"{name}: it is a link to .*secret, outside"):
        read_prompting(directory)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON"),
        ("generation_config.json", "[]", "generation_config.json holds a list"),
        ("config.json", '{"eos_token_id": "</s>"}', "config.json: eos_token_id = '</s>' must be"),
        ("generation_config.json", '{"eos_token_id": [1, -2]}', "eos_token_id = .* must be"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template must be a text"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompting(tmp_path)
