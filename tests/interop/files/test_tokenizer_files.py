from moe_jax.interop.files.tokenizer_files import (
    copy_files,
    is_hf_directory,
    tokenizer_files,
)


def write(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_hugging_face_directory_is_told_by_its_config(tmp_path):
    assert is_hf_directory(write(tmp_path, "config.json", "tokenizer.json"))


def test_a_working_directory_keeps_them_in_a_folder(tmp_path):
    model = write(tmp_path, "config.toml")
    assert tokenizer_files(model) == []
    write(model / "tokenizer", "tokenizer.json", "generation_config.json", "other")
    assert not is_hf_directory(model)
    assert [file.name for file in tokenizer_files(model)] == [
        "tokenizer.json",
        "generation_config.json",
    ]


def test_copies_are_files_of_their_own(tmp_path):
    source = write(tmp_path / "a", "blob")
    (source / "tokenizer.json").symlink_to("blob")
    copy_files([source / "tokenizer.json"], tmp_path / "b")
    assert not (tmp_path / "b" / "tokenizer.json").is_symlink()
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    copy_files([], tmp_path / "c")
    assert not (tmp_path / "c").exists()
