"""Importing JAX without the driver's absence being told; a stand-in for JAX says more than that."""

import os
import subprocess
import sys

SAYS = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\\n")
os.write(2, b"I0000 1 cudart_stub.cc:31] Could not find cuda drivers on your machine\\n")
os.write(2, b"something that matters\\n")
"""

IMPORT = "from moe_jax.cli.shared.quiet import import_jax; import_jax()"


def run(tmp_path, code):
    (tmp_path / "jax.py").write_text(SAYS)
    paths = [str(tmp_path), *sys.path]
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def test_noise_goes_and_the_rest_stays(tmp_path):
    done = run(tmp_path, IMPORT)
    assert (done.returncode, done.stderr) == (0, "something that matters\n")


def test_stderr_works_afterwards(tmp_path):
    done = run(tmp_path, IMPORT + "; import sys; print('later', file=sys.stderr)")
    assert done.stderr.endswith("later\n")
