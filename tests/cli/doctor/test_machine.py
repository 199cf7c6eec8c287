"""What is said of this machine: devices by host, links, the job, extras and their packages."""

import io
import tomllib
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from rich.console import Console
from support.places import ROOT

from moe_jax.cli.doctor import machine
from moe_jax.errors import UserError
from moe_jax.hardware.topology import named_topology
from moe_jax.mesh.distributed import Job


def text_of(table):
    console = Console(file=io.StringIO(), width=140, markup=False)
    console.print(table)
    return console.file.getvalue()


def test_devices_are_grouped_by_host():
    devices = [
        SimpleNamespace(id=i, process_index=i // 2, device_kind="cpu", platform="cpu")
        for i in (3, 0, 2, 1)
    ]
    # SimpleNamespace compares by value; devices are keys there, by identity.
    devices = [type("Device", (), vars(device))() for device in devices]
    rows = [line.split() for line in text_of(machine.devices_table(devices)).splitlines()]
    assert ["0", "2", "x", "cpu", "0,", "1", "0"] in rows
    assert ["1", "2", "x", "cpu", "2,", "3", "1"] in rows


def test_links_of_a_known_cluster_are_in_gigabytes_per_second():
    text = text_of(machine.links_table(named_topology("h100", 2, 8)))
    assert "2 x 8 h100" in text
    assert "450 GB/s" in text
    assert "50 GB/s" in text
    assert "unknown" not in text


def test_unequal_devices_are_reported_instead_of_links():
    devices = [
        SimpleNamespace(id=i, process_index=0, device_kind=kind, platform="cpu")
        for i, kind in enumerate(("cpu", "tpu"))
    ]
    assert "kinds ['cpu', 'tpu']" in text_of(machine.links_table(devices))


def test_job_and_missing_extras_are_named(monkeypatch):
    monkeypatch.setattr(machine, "extra_packages", lambda extra: ("numpy", f"no-such-{extra}"))
    text = text_of(machine.works_table(Job("slurm", "h:1", 16, 3)))
    assert "process 3 of 16 (slurm)" in text
    assert "missing no-such-track: pip install 'moe-jax[track]'" in text
    assert "missing no-such-serve: pip install 'moe-jax[serve]'" in text


def test_an_extra_has_what_the_metadata_says_and_what_it_includes(monkeypatch):
    stated = [
        "numpy>=2.0",
        'jinja2>=3.1.6; extra == "hf"',
        'tokenizers ; extra == "hf"',
        'fastapi; python_version > "3" and extra == "serve"',
        'moe-jax[hf,plot]; extra == "serve"',
        'matplotlib; extra == "plot"',
    ]
    monkeypatch.setattr(machine, "requires", lambda package: stated)
    assert machine.extra_packages("hf") == ("jinja2", "tokenizers")
    assert machine.extra_packages("serve") == ("fastapi", "jinja2", "tokenizers", "matplotlib")
    with pytest.raises(UserError, match="no extra track"):
        machine.extra_packages("track")


def test_extras_that_are_shown_are_extras_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(machine.EXTRAS) <= set(project["optional-dependencies"])


def test_what_is_installed_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(machine, "extra_packages", lambda extra: ("numpy",))
    assert f"yes: numpy {version('numpy')}" in text_of(machine.works_table(Job("none", "", 1, 0)))
