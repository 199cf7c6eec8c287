"""A clone whose programs only write down what they were asked for. No tests here."""

import os
import shutil
import subprocess
from pathlib import Path

import yaml
from support.places import ROOT

#: Between the words of a call: no word of ours has it.
_BETWEEN = "\x1f"
_RECORD = f"""#!/usr/bin/env bash
IFS=$'\\x1f'
printf '%s\\n' "$(basename "$0"){_BETWEEN}$*" >> "$CALLS"
"""
#: Drops the options and does the rest, as Slurm's own do after they have found the hosts.
_SLURM = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
exec {runner} "$@"
"""
#: What a virtual environment has after the test extra was installed.
_INSTALLED = ("python", "moe-jax", "ruff", "pyright")


class FakeClone:
    """This tree's launch files and configs, beside a virtual environment of recorders.

    Args:
        root: an empty directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._calls = root / "calls"
        shutil.copytree(ROOT / "launch", root / "launch")
        shutil.copy(ROOT / "pyproject.toml", root)
        (root / "configs").symlink_to(ROOT / "configs")
        for name in _INSTALLED:
            _program(root / ".venv" / "bin" / name, _RECORD)
        _program(root / "bin" / "sbatch", _SLURM.format(runner="bash"))
        _program(root / "bin" / "srun", _SLURM.format(runner=""))

    def calls(self, words: list[str]) -> list[list[str]]:
        """Run a command line in the clone; return the calls that it led to, program first.

        Raises:
            AssertionError: the command fails.
        """
        self._calls.write_text("")
        ours = ("MOE_JAX_", "SLURM_", "JAX_", "PYTHON", "VENV")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        environ |= {"CALLS": str(self._calls), "PATH": f"{self.root / 'bin'}:{environ['PATH']}"}
        done = subprocess.run(
            words, cwd=self.root, env=environ, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line.split(_BETWEEN) for line in self._calls.read_text().splitlines()]


def container_commands(path: Path) -> list[list[str]]:
    """Return the commands of the containers that a JobSet starts."""
    jobset = yaml.safe_load(path.read_text())
    return [
        container["command"]
        for job in jobset["spec"]["replicatedJobs"]
        for container in job["template"]["spec"]["template"]["spec"]["containers"]
    ]


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
