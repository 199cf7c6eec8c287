import json

import numpy as np
import pytest
from support.hf.stored_tensors import stored_tensors
from support.model_directories import BF16, write_model

from moe_jax.checkpoint import read_contents
from moe_jax.config import load_config
from moe_jax.interop.convert import import_hf
from moe_jax.interop.export import export_hf


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def to_ours(directory, out, *overrides, dtype="auto"):
    import_hf(directory, out, overrides, dtype, quiet)


def to_theirs(checkpoint, out, dtype="auto", most=10_000, step=None):
    export_hf(checkpoint, out, step, dtype, most, quiet)


def leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def directory(tmp_path):
    write_model(tmp_path / "hf")
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        (tmp_path / "hf" / name).write_text(f'{{"file": "{name}"}}')
    (tmp_path / "hf" / "modeling_evil.py").write_text("raise SystemExit")
    return tmp_path / "hf"


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32), np.dtype(np.float16)])
def test_there_and_back_is_bit_equal(tmp_path, dtype):
    write_model(tmp_path / "hf", dtype=dtype, settings={"torch_dtype": dtype.name})
    to_ours(tmp_path / "hf", tmp_path / "run")
    to_theirs(tmp_path / "run", tmp_path / "back")
    assert stored_tensors(tmp_path / "back") == stored_tensors(tmp_path / "hf")
    before, after = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("hf", "back"))
    assert after == before


def test_tensors_of_another_dtype_than_most_keep_it(tmp_path):
    write_model(tmp_path / "hf", odd={"model.norm.weight": np.dtype(np.float32)})
    to_ours(tmp_path / "hf", tmp_path / "run", dtype="float32")
    to_theirs(tmp_path / "run", tmp_path / "back")
    assert stored_tensors(tmp_path / "back") == stored_tensors(tmp_path / "hf")


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16)])
def test_what_was_rounded_by_wish_is_exported_as_it_is_held(tmp_path, dtype):
    write_model(tmp_path / "hf", dtype=dtype, settings={"torch_dtype": dtype.name})
    to_ours(tmp_path / "hf", tmp_path / "run", dtype="bfloat16")
    to_theirs(tmp_path / "run", tmp_path / "back")
    back = stored_tensors(tmp_path / "back")
    for name, (_, shape, data) in stored_tensors(tmp_path / "hf").items():
        want = np.frombuffer(data, dtype).astype(BF16)
        assert back[name] == ("torch.bfloat16", shape, want.tobytes())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_mixed_dtypes_that_nobody_changed_are_exported_each_in_its_own(tmp_path):
    write_model(tmp_path / "hf", odd={"model.norm.weight": np.dtype(np.float32)})
    to_ours(tmp_path / "hf", tmp_path / "run")
    to_theirs(tmp_path / "run", tmp_path / "back")
    before, after = stored_tensors(tmp_path / "hf"), stored_tensors(tmp_path / "back")
    assert {name: found[0] for name, found in after.items()} == {
        name: found[0] for name, found in before.items()
    }
    assert after["model.norm.weight"][0] == "torch.float32"


def test_the_output_is_a_working_directory(directory, tmp_path):
    to_ours(directory, tmp_path / "run", "mesh.expert=8")
    assert leftovers(tmp_path / "run") == ["checkpoints", "config.toml", "tokenizer"]
    assert leftovers(tmp_path / "run" / "tokenizer") == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
    ]
    config = load_config(tmp_path / "run" / "config.toml")
    assert config.mesh.expert == 8
    assert config.precision.params == config.precision.compute == "bfloat16"
    assert config.data.tokenizer == str(tmp_path / "run" / "tokenizer" / "tokenizer.json")
    contents = read_contents(tmp_path / "run" / "checkpoints", None, "digests")
    assert contents.step == 0
    assert contents.faults == ()
    experts = next(a for a in contents.arrays if a.name.endswith("experts.w_up_edf"))
    assert experts.shape == (3, 8, 16, 24)
    assert experts.chunk == (1, 1, 16, 24)


def test_tokenizer_files_come_back(directory, tmp_path):
    to_ours(directory, tmp_path / "run")
    to_theirs(tmp_path / "run", tmp_path / "back", most=10**6)
    assert leftovers(tmp_path / "back") == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "back" / name).read_text() == (directory / name).read_text()


@pytest.mark.parametrize("chunk", [100, 1000])
def test_slabs_that_are_cut_into_chunks_are_the_same(directory, tmp_path, chunk, monkeypatch):
    monkeypatch.setattr("moe_jax.checkpoint.streamed.CHUNK", chunk)
    to_ours(directory, tmp_path / "run")
    to_theirs(tmp_path / "run", tmp_path / "back")
    assert stored_tensors(tmp_path / "back") == stored_tensors(directory)


def test_dtypes_by_choice(directory, tmp_path):
    to_ours(directory, tmp_path / "run", dtype="float32")
    stored = read_contents(tmp_path / "run" / "checkpoints", None).arrays
    assert {array.dtype for array in stored} == {"float32"}
    to_theirs(tmp_path / "run", tmp_path / "back", dtype="float16")
    back = stored_tensors(tmp_path / "back")
    for name, (_, shape, data) in stored_tensors(directory).items():
        want = np.frombuffer(data, BF16).astype(np.float16)
        assert back[name] == ("torch.float16", shape, want.tobytes())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "float16"


def test_values_beyond_float16_are_refused(tmp_path):
    write_model(tmp_path / "hf", scale=1e6)
    to_ours(tmp_path / "hf", tmp_path / "run")
    with pytest.raises(ValueError, match="has values beyond float16's range"):
        to_theirs(tmp_path / "run", tmp_path / "back", dtype="float16")
    assert leftovers(tmp_path) == ["hf", "run"]


def test_another_model_by_set_is_refused(directory, tmp_path):
    with pytest.raises(ValueError, match=r"another model than --set asks for \(model\.moe\.top_k"):
        to_ours(directory, tmp_path / "run", "model.moe.top_k=1")
    assert leftovers(tmp_path) == ["hf"]


def truncate(directory):
    shard = sorted(directory.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])


def forget(directory):
    index = directory / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    del listed["weight_map"]["lm_head.weight"]
    index.write_text(json.dumps(listed))


def lead_away(directory):
    index = directory / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    index.write_text(json.dumps(listed))


def reshape(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 49}))


def link_away(directory):
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model-00002-of-.*safetensors: cut short within \S+weight"),
        (forget, r"no tensor lm_head\.weight: model\.safetensors\.index\.json does not list it"),
        (lead_away, r"index\.json puts lm_head\.weight there: '\.\./secret\.safetensors' is not"),
        (reshape, r"model\.embed_tokens\.weight has shape \[48, 16\], config\.json makes it \[49"),
        (link_away, r"tokenizer\.json: it is a link to .*outside"),
    ],
)
def test_damage_is_named_and_leaves_nothing(directory, tmp_path, damage, message):
    damage(directory)
    with pytest.raises(ValueError, match=message):
        to_ours(directory, tmp_path / "run")
    assert leftovers(tmp_path) == ["hf"]


def test_a_shard_that_shrinks_under_way_leaves_nothing(directory, tmp_path):
    def report(done: int, total: int) -> None:
        if done > total / 2:
            for shard in directory.glob("*.safetensors"):
                shard.write_bytes(shard.read_bytes()[:1000])

    with pytest.raises(ValueError, match=r"cut short within model\.\S+ while it was read"):
        import_hf(directory, tmp_path / "run", (), "auto", report)
    assert leftovers(tmp_path) == ["hf"]


def test_an_existing_output_is_refused(directory, tmp_path):
    to_ours(directory, tmp_path / "run")
    with pytest.raises(ValueError, match="run exists and is never overwritten"):
        to_ours(directory, tmp_path / "run")
    with pytest.raises(ValueError, match="hf exists and is never overwritten"):
        to_theirs(tmp_path / "run", directory)


def test_a_damaged_checkpoint_is_not_exported(directory, tmp_path):
    to_ours(directory, tmp_path / "run")
    files = (tmp_path / "run" / "checkpoints" / "00000000" / "arrays" / "d").iterdir()
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"is damaged: .* does not match the digest"):
        to_theirs(tmp_path / "run", tmp_path / "back")
    assert leftovers(tmp_path) == ["hf", "run"]


def test_a_step_that_is_not_there_is_named(directory, tmp_path):
    to_ours(directory, tmp_path / "run")
    with pytest.raises(ValueError, match="no good checkpoint of step 3"):
        to_theirs(tmp_path / "run", tmp_path / "back", step=3)
    with pytest.raises(ValueError, match=r"--step 3 and .*step 0: give one"):
        to_theirs(tmp_path / "run" / "checkpoints" / "00000000", tmp_path / "back", step=3)
