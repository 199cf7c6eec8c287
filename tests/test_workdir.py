"""Names in a working directory: told apart, plain, and what the package's parts write."""

from pathlib import PurePosixPath

from moe_jax import workdir

NAMES = {k: v for k, v in vars(workdir).items() if k.isupper()}


def test_names_are_plain_and_differ():
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(PurePosixPath(name).name == name for name in NAMES.values())


def test_every_name_is_explained():
    assert workdir.__doc__
    for name in NAMES.values():
        assert f"\n    {name}" in workdir.__doc__
