"""`moe-jax serve`, in processes of its own, against transformers' answers."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
from support.hf.tiny_hf import their_greedy, write_mixtral

from moe_jax.cli import serve
from moe_jax.cli.main import main
from moe_jax.data.hf_tokenizer import HfTokenizer

KEY = "secret"
PROMPTS = ("def add", "", "adds two", "return a + b", "a", "straße 日本", "numbers. def", "f")
CHAT = [{"role": "user", "content": "Write a function"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("serve") / "tiny"


@pytest.fixture(scope="module")
def theirs(directory):
    return write_mixtral(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(directory, processes, log):
    """The processes of a server and its URL."""
    command = [sys.executable, "-m", "moe_jax.cli.main", "serve", str(directory), "--port=0"]
    command += ["--slots=4", "--context=128", "--set", "mesh.expert=4"]
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{free_port()}", f"--num-processes={processes}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "MOE_JAX_API_KEY": KEY}
    started = []
    with log.open("w") as errors:
        try:
            for index in range(processes):
                one = [*command, f"--process-id={index}"] if processes > 1 else command
                started.append(
                    subprocess.Popen(
                        one, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
                    )
                )
            for line in started[0].stdout:
                if found := re.search(r"serving tiny at (\S+)", line):
                    break
            else:
                pytest.fail(log.read_text())
            yield started, found[1]
        finally:
            for process in started:
                process.kill()
                process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_hugging_face_directory_is_served_as_transformers_would_answer(
    directory, theirs, processes, tmp_path
):
    tokenizer = HfTokenizer(directory / "tokenizer.json")

    def wanted(tokens):
        found = their_greedy(theirs, tokens, 24)
        return tokenizer.decode(found), len(found)

    log = tmp_path / "stderr"
    with serving(directory, processes, log) as (started, url):
        client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)

        def ask(prompt):
            answer = client.completions.create(
                model="tiny", prompt=prompt, max_tokens=24, temperature=0
            )
            return answer.choices[0].text, answer.usage.completion_tokens

        with client, ThreadPoolExecutor(len(PROMPTS)) as pool:
            got = list(pool.map(ask, PROMPTS))
            chat = client.chat.completions.create(
                model="tiny", messages=CHAT, max_tokens=24, temperature=0, stream=True
            )
            said = "".join(part.choices[0].delta.content or "" for part in chat)
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="wrong").models.list()
            # A launcher tells all processes: those that follow leave the end to the first.
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(60) for process in started]
    assert got == [wanted(tokenizer.encode_prompt(prompt)) for prompt in PROMPTS]
    assert said == wanted(tokenizer.encode_chat(CHAT))[0]
    assert codes == [0] * processes, log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queue=-1"], r"queue \(-1\) must be 0 or more"),
        (["--max-tokens=0"], r"max_tokens \(0\) must be 1 or more"),
        (["--api-key-file=missing"], "--api-key-file missing cannot be read"),
        (["--host=192.0.2.1"], r"cannot listen on 192\.0\.2\.1:8000"),
        (["--port=99999"], r"--port \(99999\) must be from 0 \(any\) to 65535"),
        (["--port=0"], "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(arguments, message, capsys):
    assert main(["serve", "nowhere", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_key_from_two_places_or_without_a_letter_is_refused(tmp_path, monkeypatch, capsys):
    key = tmp_path / "key"
    key.write_text("\n")
    assert main(["serve", "nowhere", f"--api-key-file={key}"]) == 2
    assert "the API key is empty" in capsys.readouterr().err
    monkeypatch.setenv("MOE_JAX_API_KEY", "a")
    assert main(["serve", "nowhere", f"--api-key-file={key}"]) == 2
    assert "drop one of them" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda package: None)
    assert main(["serve", "nowhere"]) == 2
    assert "pip install 'moe-jax[serve]'" in capsys.readouterr().err
