"""What `doctor` prints and returns: without a config, with a good one, with one for elsewhere."""

import argparse
import io
import tomllib
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from rich.console import Console
from support.places import ROOT

from moe_jax.cli.doctor import verb as doctor
from moe_jax.config import ConfigError, load_config
from moe_jax.hardware.topology import named_topology
from moe_jax.mesh.distributed import Job
from moe_jax.model.flops import total_parameters

QUICKSTART = str(ROOT / "configs" / "quickstart.toml")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `doctor ARGV`; returns its exit code and output."""
    for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"MOE_JAX_{name}", raising=False)

    def call(*argv):
        parser = argparse.ArgumentParser()
        doctor.add_parser(parser.add_subparsers())
        args = parser.parse_args(["doctor", *argv])
        return args.run(args), capsys.readouterr().out

    return call


def text_of(table):
    console = Console(file=io.StringIO(), width=140, markup=False)
    console.print(table)
    return console.file.getvalue()


def test_without_a_config_it_reports_what_is_here(run):
    code, text = run()
    assert code == 0
    for part in ("jaxlib", "orbax-checkpoint", "8 x cpu", "no job found", "unknown"):
        assert part in text
    assert "Runs here" not in text


def test_good_config_is_sized_and_runs_here(run):
    code, text = run(QUICKSTART, "--set", "exchange.transport=auto")
    assert code == 0
    parameters = f"{total_parameters(load_config(QUICKSTART)):,}"
    for part in ("expert 8: 8 devices", "4,096 tokens per step", parameters, "w_up_edf"):
        assert part in text
    assert "experts / 8 (expert)" in text
    assert "Runs here: yes, on 8 cpu devices, emulated (exchange " in text


def test_config_for_another_machine_says_why_not_and_is_sized_all_the_same(run):
    code, text = run(str(ROOT / "configs" / "paper_ep16_x8.toml"))
    assert code == 2
    assert "data 8 x expert 16: 128 devices" in text
    assert "Runs here: no. JAX has already started with 8 cpu devices; this mesh needs 128" in text


def test_broken_config_is_refused_like_train_does(run):
    with pytest.raises(ConfigError, match="num_experts"):
        run(QUICKSTART, "--set", "model.moe.num_experts=9")


def test_overrides_without_a_config_are_refused(run):
    with pytest.raises(ValueError, match="give the CONFIG"):
        run("--set", "seed=1")


def test_devices_are_grouped_by_host():
    devices = [
        SimpleNamespace(id=i, process_index=i // 2, device_kind="cpu", platform="cpu")
        for i in (3, 0, 2, 1)
    ]
    # SimpleNamespace compares by value; devices are keys there, by identity.
    devices = [type("Device", (), vars(device))() for device in devices]
    rows = [line.split() for line in text_of(doctor.devices_table(devices)).splitlines()]
    assert ["0", "2", "x", "cpu", "0,", "1", "0"] in rows
    assert ["1", "2", "x", "cpu", "2,", "3", "1"] in rows


def test_links_of_a_known_cluster_are_in_gigabytes_per_second():
    text = text_of(doctor.links_table(named_topology("h100", 2, 8)))
    assert "2 x 8 h100" in text
    assert "450 GB/s" in text
    assert "50 GB/s" in text
    assert "unknown" not in text


def test_unequal_devices_are_reported_instead_of_links():
    devices = [
        SimpleNamespace(id=i, process_index=0, device_kind=kind, platform="cpu")
        for i, kind in enumerate(("cpu", "tpu"))
    ]
    assert "kinds ['cpu', 'tpu']" in text_of(doctor.links_table(devices))


def test_job_and_missing_extras_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "extra_packages", lambda extra: ("numpy", f"no-such-{extra}"))
    text = text_of(doctor.works_table(Job("slurm", "h:1", 16, 3)))
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
    monkeypatch.setattr(doctor, "requires", lambda package: stated)
    assert doctor.extra_packages("hf") == ("jinja2", "tokenizers")
    assert doctor.extra_packages("serve") == ("fastapi", "jinja2", "tokenizers", "matplotlib")
    with pytest.raises(ValueError, match="no extra track"):
        doctor.extra_packages("track")


def test_extras_that_are_shown_are_extras_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) <= set(project["optional-dependencies"])


def test_what_is_installed_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(doctor, "extra_packages", lambda extra: ("numpy",))
    assert f"yes: numpy {version('numpy')}" in text_of(doctor.works_table(Job("none", "", 1, 0)))
