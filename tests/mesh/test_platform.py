"""The choice of platform before JAX starts, and what it says of one that runs already."""

import os
import subprocess
import sys

import jax
import pytest

from moe_jax.config import Config, override
from moe_jax.mesh import platform
from moe_jax.mesh.build import MeshError

MESH_2X4 = override(Config(), ["mesh.data=2", "mesh.expert=4"])


def run(code: str, **environ: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    setup = (
        "import logging; logging.basicConfig(format='%(message)s', level='INFO')\n"
        "import jax\nfrom moe_jax.config import Config, override\n"
        "from moe_jax.mesh import platform\n"
        "def config(*changes): return override(Config(), changes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", setup + code],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_cpu_emulates_this_process_share_of_the_mesh():
    code = "platform.prepare_devices(config('mesh.expert=6', 'runtime.platform=cpu'), 2)\n"
    assert "3 cpu" in run(code + "print(jax.device_count(), jax.default_backend())")


def test_auto_without_enough_gpus_emulates_and_says_so():
    code = (
        "platform.count_gpus = lambda: 2\nprint(platform.prepare_devices(config('mesh.expert=4')))"
    )
    out = run(code)
    assert "2 usable GPUs, this process needs 4: emulating" in out
    assert out.startswith("cpu")


def test_auto_takes_gpus_and_leaves_the_rest_alone():
    code = (
        "platform.count_gpus = lambda: 8\nprint(platform.prepare_devices(config('mesh.expert=4')),"
        "jax.config.jax_platforms, jax.config.values['jax_cuda_visible_devices'])"
    )
    assert "gpu cuda,cpu 0,1,2,3" in run(code)


@pytest.mark.parametrize(
    ("environment", "share"),
    [({}, "0.92"), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "0.5")],
    ids=["ours", "the user's"],
)
def test_gpus_give_most_of_their_memory(environment, share):
    code = (
        "import os\nplatform.count_gpus = lambda: 8\n"
        "platform.prepare_devices(config('mesh.expert=4'))\n"
        "print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    )
    assert share in run(code, **environment)


def test_auto_respects_a_platform_chosen_in_the_environment():
    code = (
        "platform.count_gpus = lambda: 8\nprint(platform.prepare_devices(config('mesh.expert=4')))"
    )
    assert "JAX_PLATFORMS asks for the CPU" in run(code, JAX_PLATFORMS="cpu")


def test_gpu_platform_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "count_gpus", lambda: 0)
    monkeypatch.setattr(platform.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(MeshError, match=r"0 NVIDIA GPUs.*nvidia-smi.*platform=cpu"):
        platform.prepare_devices(override(MESH_2X4, ["runtime.platform=gpu"]))


def test_mesh_that_processes_cannot_share_is_refused():
    with pytest.raises(MeshError, match="3 processes cannot share a mesh of 8 devices"):
        platform.prepare_devices(MESH_2X4, num_processes=3)


def test_running_jax_with_the_right_devices_is_accepted():
    config = override(Config(), [f"mesh.expert={jax.device_count()}"])
    assert platform.prepare_devices(config) == jax.default_backend()


@pytest.mark.parametrize("change", ["mesh.expert=3", "runtime.platform=gpu"])
def test_running_jax_with_other_devices_is_refused(change):
    count = jax.device_count()
    config = override(Config(), [f"mesh.expert={count}", change])
    with pytest.raises(MeshError, match=f"already started with {count} cpu devices; .*rest"):
        platform.prepare_devices(config)


def test_count_gpus_is_zero_without_a_plugin(monkeypatch):
    monkeypatch.setattr(platform, "entry_points", lambda group: [])
    assert platform.count_gpus() == 0
