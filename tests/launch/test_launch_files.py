"""The launch files: syntax, what they hand to processes, and how they fail.

A real training run through them is not started here.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.places import ROOT

from moe_jax.mesh.jobs import Job, detect_job

LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"]
COMMANDS = [script for script in SCRIPTS if script.name != "venv.sh"]


def bash(*arguments, cwd, **environ):
    theirs = ("MOE_JAX_", "SLURM_", "JAX_", "PYTHON", "VENV")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    return subprocess.run(
        ["bash", *map(str, arguments)],
        cwd=cwd,
        env=keep | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def network() -> dict[str, str]:
    lines = (LAUNCH / "network.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_script_parses(script, tmp_path):
    assert bash("-n", script, cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_script_is_executable_bash(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


# --- local_cluster.sh ---


def test_local_cluster_gives_each_process_its_place(tmp_path):
    show = (
        'echo "$MOE_JAX_COORDINATOR $MOE_JAX_NUM_PROCESSES $MOE_JAX_PROCESS_ID $JAX_PLATFORMS $0"'
    )
    done = bash(LAUNCH / "local_cluster.sh", 3, "bash", "-c", show, "a b", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = sorted(done.stdout.splitlines())
    for number, line in enumerate(lines):
        prefix, coordinator, count, process, rest = line.split(" ", 4)
        assert (prefix, rest) == (f"[{number}]", "cpu a b")
        environ = {
            "MOE_JAX_COORDINATOR": coordinator,
            "MOE_JAX_NUM_PROCESSES": count,
            "MOE_JAX_PROCESS_ID": process,
        }
        assert coordinator.startswith("127.0.0.1:")
        assert detect_job(environ) == Job("explicit", coordinator, 3, number)
    assert len(lines) == 3


def test_local_cluster_stops_the_others_and_returns_the_first_failure(tmp_path):
    work = (
        'if [ "$MOE_JAX_PROCESS_ID" = 1 ]; then sleep 0.5; exit 7; fi\n'
        'trap "echo saved >&2; exit 0" TERM\n'
        "for i in $(seq 300); do sleep 0.1; done; exit 9"
    )
    done = bash(LAUNCH / "local_cluster.sh", 3, "bash", "-c", work, cwd=tmp_path)
    assert done.returncode == 7
    assert {"[0] saved", "[2] saved"} <= set(done.stdout.splitlines())


def test_local_cluster_passes_a_stop_signal_on(tmp_path):
    work = 'trap "echo saved; exit 0" TERM; echo ready; for i in $(seq 300); do sleep 0.1; done'
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "local_cluster.sh"), "1", "bash", "-c", work],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "[0] ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "[0] saved" in out.splitlines()


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "true"], ["two", "true"]])
def test_local_cluster_explains_its_usage(arguments, tmp_path):
    done = bash(LAUNCH / "local_cluster.sh", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: bash launch/local_cluster.sh N COMMAND" in done.stderr


# --- venv.sh ---

FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
if [[ $2 == venv ]]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi
if [[ $2 == pip ]]; then exit "${PIP_EXIT:-0}"; fi
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "pyproject.toml").write_text("one")
    python = tmp_path / "fake-python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def make_venv(clone, python, **environ):
    script = f'set -eu; source "{LAUNCH}/venv.sh"; make_venv "{clone}" "[test]"; echo made'
    calls = clone / "calls"
    calls.write_text("")
    done = bash("-c", script, cwd="/", PYTHON=str(python), CALLS=str(calls), **environ)
    return done, [line for line in calls.read_text().splitlines() if line.startswith("-m")]


def test_environment_is_made_once_and_installed_when_the_project_changes(clone):
    done, calls = make_venv(clone, clone / "fake-python")
    assert done.stdout.endswith("made\n"), done.stderr
    assert calls[0] == f"-m venv --clear {clone}/.venv"
    assert calls[1].endswith(f"-e {clone}[test]")
    assert len(make_venv(clone, clone / "fake-python")[1]) == 0
    (clone / "pyproject.toml").write_text("two")
    assert [call.split()[1] for call in make_venv(clone, clone / "fake-python")[1]] == ["pip"]


def test_failed_installation_is_not_taken_for_a_finished_one(clone):
    done, _ = make_venv(clone, clone / "fake-python", PIP_EXIT="1")
    assert done.returncode == 1
    assert "error: pip could not install" in done.stderr
    assert make_venv(clone, clone / "fake-python")[0].returncode == 0


def test_unsuitable_python_is_named(clone):
    done, calls = make_venv(clone, "/nowhere/python3.11")
    assert (done.returncode, calls) == (1, [])
    assert "PYTHON=/nowhere/python3.11 is not a working Python 3.11 or newer" in done.stderr
    assert not (clone / ".venv").exists()


def test_environment_can_have_another_name(clone):
    _, calls = make_venv(clone, clone / "fake-python", VENV=".venv-3.99")
    assert calls[0] == f"-m venv --clear {clone}/.venv-3.99"


# --- test_newest.sh ---

ASKED_PYTHON = """#!/bin/sh
case "$2" in
  *releaselevel*) echo "{minor} 1 $0" ;;
  *version_info.minor*) echo {minor} ;;
esac
[ "$1" != --version ] || echo "Python 3.{minor}.1"
"""


def put_python(directory: Path, name: str, minor: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    python = directory / name
    python.write_text(ASKED_PYTHON.format(minor=minor))
    python.chmod(0o755)
    return python


@pytest.fixture
def newest(tmp_path):
    """Runs test_newest.sh of a clone whose test.sh only says what it was told."""
    launch = tmp_path / "clone" / "launch"
    launch.mkdir(parents=True)
    for name in ("venv.sh", "test_newest.sh"):
        (launch / name).write_text((LAUNCH / name).read_text())
    (launch / "test.sh").write_text('echo "$PYTHON $VENV $*"; exit 3')
    commands = tmp_path / "commands"
    put_python(commands, "python3", 12)

    def run():
        # Of this machine's own commands, only those that are no Python.
        for command in ("bash", "dirname", "grep", "sort", "tail", "cut"):
            if not (commands / command).exists():
                (commands / command).symlink_to(shutil.which(command))
        return bash(launch / "test_newest.sh", "tests/config", cwd="/", PATH=str(commands))

    return run, commands


def test_newest_python_runs_the_quick_tests_in_its_own_environment(newest):
    run, commands = newest
    put_python(commands, "python3.9", 9)
    python = put_python(commands, "python3.13", 13)
    done = run()
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == [
        "== the quick tests under Python 3.13.1",
        f"{python} .venv-3.13 -m not slow tests/config",
    ]


def test_a_python_that_pyenv_keeps_is_found_behind_a_shim_that_fails(newest, tmp_path):
    run, commands = newest
    (commands / "python3.14").write_text("#!/bin/sh\nexit 127")
    (commands / "pyenv").write_text(f"#!/bin/sh\necho {tmp_path}/pyenv")
    for shim in ("python3.14", "pyenv"):
        (commands / shim).chmod(0o755)
    python = put_python(tmp_path / "pyenv" / "versions" / "3.14.1" / "bin", "python3", 14)
    assert run().stdout.splitlines()[-1].startswith(f"{python} .venv-3.14 ")


@pytest.mark.parametrize("minors", [(), (12,), (11, 12)])
def test_without_a_newer_python_the_tests_are_skipped_and_said_to_be(minors, newest):
    run, commands = newest
    for minor in minors:
        put_python(commands, f"python3.{minor}", minor)
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "== skipped: the tests under a newer Python (none here is newer than Python 3.12.1)\n"
    )


# --- clusters ---


def test_network_environment_sets_what_exists_only():
    variables = network()
    assert variables["NCCL_IB_DISABLE"] == "0"
    assert {"NCCL_IB_HCA", "NCCL_NET_GDR_LEVEL", "NCCL_SOCKET_IFNAME"} <= set(variables)
    # Removed in NCCL 2.5.
    assert not {"NCCL_TREE_THRESHOLD", "NCCL_LL_THRESHOLD"} & set(variables)


def test_slurm_job_exports_the_network_and_runs_one_task_per_host(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/usr/bin/env bash\necho "$@"\nenv | grep ^NCCL_\n')
    srun.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash(
        LAUNCH / "slurm.sbatch", "train", "x.toml", cwd="/", PATH=path, MOE_JAX_HOME=str(ROOT)
    )
    command, *environ = done.stdout.splitlines()
    assert command.endswith("moe-jax train x.toml")
    assert dict(line.split("=", 1) for line in environ) == network()
    assert "#SBATCH --ntasks-per-node=1\n" in (LAUNCH / "slurm.sbatch").read_text()


@pytest.mark.parametrize(
    ("home", "arguments", "message"),
    [("/tmp", ["train"], "set MOE_JAX_HOME"), (str(ROOT), [], "usage: sbatch")],
)
def test_slurm_job_explains_what_is_missing(home, arguments, message, tmp_path):
    done = bash(LAUNCH / "slurm.sbatch", *arguments, cwd=tmp_path, MOE_JAX_HOME=home)
    assert done.returncode != 0
    assert message in done.stderr


def test_jobset_describes_one_job_to_all_its_pods():
    jobset = yaml.safe_load((LAUNCH / "k8s-jobset.yaml").read_text())
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    hosts = job["parallelism"]
    assert (job["completionMode"], job["completions"], workers["replicas"]) == ("Indexed", hosts, 1)
    name, subdomain = jobset["metadata"]["name"], jobset["spec"]["network"]["subdomain"]
    coordinator = f"{name}-{workers['name']}-0-0.{subdomain}:12321"
    for index in range(hosts):
        pod = environ | {"JOB_COMPLETION_INDEX": str(index)}
        assert detect_job(pod) == Job("kubernetes", coordinator, hosts, index, 1)


def test_jobset_gets_the_network_file_and_a_config_that_exists():
    text = (LAUNCH / "k8s-jobset.yaml").read_text()
    pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config_map = container["envFrom"][0]["configMapRef"]["name"]
    assert f"create configmap {config_map} --from-env-file=launch/network.env" in text
    assert (ROOT / container["command"][2]).is_file()
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
