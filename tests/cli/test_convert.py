"""Whole commands: imported, generated from, trained a step, exported, loaded by transformers."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from support.model_directories import write_large_model
from support.training_cases import command, environment, records, wait_for
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.interop.files.directory import HfDirectory

#: One step of a run on the text of the standard library, as bytes.
TRAINING = (
    "data.sequence_length=32",
    "train.steps=1",
    "train.global_batch=8",
    "schedule.warmup_steps=0",
    "optimizer.learning_rate=1e-4",
)


def settings(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def run(*arguments: object, cache=None) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    done = subprocess.run(
        command(*words),
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def logits(path) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits.numpy()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random Mixtral with a vocabulary for bytes, as transformers saves it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        sliding_window=None,
        bos_token_id=None,
        eos_token_id=256,
        initializer_range=0.2,
    )
    path = tmp_path_factory.mktemp("mixtral") / "hf"
    transformers.MixtralForCausalLM(config).save_pretrained(path, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(path)
    return path


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token for each byte, and one that ends a text."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template="{{ messages }}"
    )


def test_there_and_back_transformers_computes_the_same(directory, tmp_path, capsys):
    assert main(["convert", "from-hf", str(directory), str(tmp_path / "run")]) == exit_codes.OK
    arguments = ["convert", "to-hf", str(tmp_path / "run"), str(tmp_path / "back")]
    assert main([*arguments, "--max-shard-size", "100KB"]) == exit_codes.OK
    told = capsys.readouterr()
    assert "imported" in told.out
    assert "100%" in told.err or "kB" in told.err
    assert len(list((tmp_path / "back").glob("model-0*.safetensors"))) > 1
    np.testing.assert_array_equal(logits(tmp_path / "back"), logits(directory))
    before, after = (
        transformers.AutoTokenizer.from_pretrained(d) for d in (directory, tmp_path / "back")
    )
    assert after("Grüße, Welt<|endoftext|>") == before("Grüße, Welt<|endoftext|>")
    assert after.chat_template == "{{ messages }}"
    assert main(["inspect", str(tmp_path / "run")]) == exit_codes.OK
    assert "a Hugging Face model: mixtral in float32" in capsys.readouterr().out


def test_mistakes_are_user_errors_that_say_what(directory, tmp_path, capsys):
    def fails(*arguments: str) -> str:
        assert main(["convert", *arguments]) == exit_codes.USER_ERROR
        err = capsys.readouterr().err
        # No bar before it.
        assert err.startswith("moe-jax convert: ")
        return err

    out = str(tmp_path / "out")
    assert "none is not a directory" in fails("from-hf", str(tmp_path / "none"), out)
    assert "'5 apples' is no size" in fails("to-hf", out, out, "--max-shard-size", "5 apples")
    assert "does not exist: give the working" in fails("to-hf", out, str(tmp_path / "other"))
    assert "exists and is never overwritten" in fails("from-hf", str(directory), str(tmp_path))
    assert "unknown key" in fails("from-hf", str(directory), out, "--set", "mesh.experts=4")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_goes_on_from_imported_weights_and_is_exported(directory, tmp_path_factory, tmp_path):
    cache = tmp_path_factory.mktemp("compiled")
    imported, tuned, back = tmp_path / "imported", tmp_path / "tuned", tmp_path / "back"
    run("convert", "from-hf", directory, imported, *settings("mesh.expert=4"), cache=cache)
    training = ["train", imported / "config.toml", *settings(*TRAINING), "--workdir", tuned]
    first = run(*training, "--init-from", imported, cache=cache)
    assert f"starting from the weights of step 0 in {imported}" in first.stderr
    run("convert", "to-hf", tuned, back, cache=cache)
    change = np.abs(logits(back) - logits(directory)).max()
    assert 0 < change < 1
    assert transformers.AutoTokenizer.from_pretrained(back).eos_token_id == 256
    assert json.loads((back / "generation_config.json").read_text())["eos_token_id"] == 256

    again = run(*training, "--init-from", directory, cache=cache)
    assert "resuming from the checkpoint of step 1" in again.stderr
    assert f"--init-from {directory} is not used" in again.stderr

    direct = ["train", imported / "config.toml", *settings(*TRAINING), "--workdir", tmp_path / "b"]
    done = run(*direct, *settings("data.tokenizer=bytes"), "--init-from", directory, cache=cache)
    assert "data.tokenizer = 'bytes' is not the tokenizer of the initial weights" in done.stderr
    run("convert", "to-hf", tmp_path / "b", tmp_path / "b_back", cache=cache)
    assert not (tmp_path / "b_back" / "tokenizer.json").exists()

    direct = ["train", imported / "config.toml", *settings(*TRAINING), "--workdir", tmp_path / "d"]
    run(*direct, "--init-from", directory, cache=cache)
    assert records(tmp_path / "d")[0]["loss"] == records(tuned)[0]["loss"]

    later = ["train", imported / "config.toml", *settings(*TRAINING), "--workdir", tmp_path / "c"]
    run(*later, "--init-from", tuned, cache=cache)
    assert records(tmp_path / "c")[0]["loss"] < records(tuned)[0]["loss"]


@pytest.fixture
def roomy(tmp_path):
    """A directory for gigabytes, which pytest would keep."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_output(roomy):
    write_large_model(roomy / "hf", layers=2)
    process = subprocess.Popen(
        command("convert", "from-hf", str(roomy / "hf"), str(roomy / "out")),
        env=environment(roomy / "cache"),
        stderr=subprocess.DEVNULL,
    )

    def is_writing() -> bool:
        return bool(list(roomy.glob(".out.partial-*/checkpoints/tmp.*/arrays/d/*")))

    wait_for(is_writing, process, 60)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (roomy / "out").exists()
    [partial] = roomy.glob(".out.partial-*")
    done = run("convert", "from-hf", roomy / "hf", roomy / "out", cache=roomy / "cache")
    assert f"{partial}: an unfinished output" in done.stderr
    run("inspect", roomy / "out", "--verify", cache=roomy / "cache")


#: Runs a command and prints the most memory it held, in bytes. Linux starts a process's peak at its
#: parent's, and pytest's is gigabytes late in the suite: this small process stands between.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], check=False).returncode
unit = 1 if sys.platform == "darwin" else 1024
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
sys.exit(code)
"""


@pytest.mark.slow
def test_four_gigabytes_are_converted_in_little_memory(roomy):
    assert write_large_model(roomy / "hf", layers=8) > 4e9

    def peak(*arguments: object) -> int:
        words = [sys.executable, "-c", MEASURE, *command("convert", *map(str, arguments))]
        done = subprocess.run(
            words, env=environment(roomy), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.rsplit("peak", 1)[1])

    assert peak("from-hf", roomy / "hf", roomy / "run") < 1.5e9
    assert peak("to-hf", roomy / "run", roomy / "back") < 1.5e9
    before, after = HfDirectory(roomy / "hf"), HfDirectory(roomy / "back")
    assert before.tensors.keys() == after.tensors.keys()
    for name in before.tensors:
        assert before.read(name).tobytes() == after.read(name).tobytes(), name
