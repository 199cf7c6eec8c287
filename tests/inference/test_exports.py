"""What the packages `inference` and `serve` show, and that showing it costs nothing."""

import importlib
import importlib.resources
import inspect
import subprocess
import sys

import pytest

PACKAGES = ("moe_jax.inference", "moe_jax.serve")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_listed(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        thing = getattr(module, name)
        # A submodule of the same name would hide it.
        assert not inspect.ismodule(thing)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_the_packages_alone_import_neither_jax_nor_a_server():
    code = f"import sys, {', '.join(PACKAGES)}; print({{'jax', 'fastapi'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_names_modules_that_there_are(package):
    module = importlib.import_module(package)
    folder = importlib.resources.files(package)
    modules = {entry.name.removesuffix(".py") for entry in folder.iterdir()} - {"__init__"}
    assert module.__doc__ is not None
    missing = {name for name in modules if name.isidentifier() and name not in module.__doc__}
    assert missing - {"__pycache__"} == set()
