"""The mesh, its order of devices, and the choice of platform before JAX starts."""

import os
import subprocess
import sys

import jax
import pytest
from support.fake_devices import fake

from moe_jax.axes import AXES
from moe_jax.config import Config, override
from moe_jax.hardware.topology import named_topology
from moe_jax.mesh import build

MESH_2X4 = override(Config(), ["mesh.data=2", "mesh.expert=4"])


def test_mesh_has_all_axes_of_auto_type():
    mesh = build.build_mesh(MESH_2X4.mesh, jax.devices()[:8])
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == {"pipe": 1, "data": 2, "fsdp": 1, "expert": 4, "tensor": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_default_devices_are_all_of_the_job():
    config = override(Config(), [f"mesh.expert={jax.device_count()}"])
    assert list(build.build_mesh(config.mesh).devices.flat) == jax.devices()


def test_devices_are_ordered_by_host_whatever_their_ids():
    devices = fake(2, 4, processes_per_host=4)
    shuffled = [devices[i] for i in (5, 0, 7, 2, 4, 1, 6, 3)]
    assert build.order_devices(shuffled) == devices


@pytest.mark.parametrize("count", [1, 7])
def test_wrong_device_count_names_both_and_the_remedy(count):
    with pytest.raises(build.MeshError, match=f"needs 8 devices .*data 2.*there are {count}: "):
        build.build_mesh(MESH_2X4.mesh, jax.devices()[:count])


@pytest.mark.parametrize(
    ("axes", "hosts", "per_host", "expected"),
    [
        (["expert=8"], 2, 4, [0, 0, 0, 0, 1, 1, 1, 1]),
        (["data=2", "expert=4"], 2, 4, [0, 0, 0, 0, 1, 1, 1, 1]),
        (["expert=4", "tensor=2"], 2, 4, [0, 0, 1, 1]),
        (["pipe=2", "expert=4"], 2, 4, [0, 0, 0, 0, 1, 1, 1, 1]),
        (["data=4", "expert=2"], 4, 2, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_host_table_follows_batch_order(axes, hosts, per_host, expected):
    config = override(Config(), [f"mesh.{axis}" for axis in axes])
    mesh = build.build_mesh(config.mesh, jax.devices()[:8])
    table = build.host_table(mesh, named_topology("h100", hosts, per_host))
    assert table == tuple(expected)


def test_host_table_refuses_a_topology_of_another_size():
    mesh = build.build_mesh(MESH_2X4.mesh, jax.devices()[:8])
    with pytest.raises(build.MeshError, match=r"8 devices .* h100-8x2 has 16: set runtime\.clus"):
        build.host_table(mesh, named_topology("h100", 2, 8))


def run(code: str, **environ: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    setup = (
        "import logging; logging.basicConfig(format='%(message)s', level='INFO')\n"
        "import jax\nfrom moe_jax.config import Config, override\n"
        "from moe_jax.mesh import build\n"
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
    code = "build.prepare_devices(config('mesh.expert=6', 'runtime.platform=cpu'), 2)\n"
    assert "3 cpu" in run(code + "print(jax.device_count(), jax.default_backend())")


def test_auto_without_enough_gpus_emulates_and_says_so():
    code = "build.count_gpus = lambda: 2\nprint(build.prepare_devices(config('mesh.expert=4')))"
    out = run(code)
    assert "2 usable GPUs, this process needs 4: emulating" in out
    assert out.startswith("cpu")


def test_auto_takes_gpus_and_leaves_the_rest_alone():
    code = (
        "build.count_gpus = lambda: 8\nprint(build.prepare_devices(config('mesh.expert=4')),"
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
        "import os\nbuild.count_gpus = lambda: 8\nbuild.prepare_devices(config('mesh.expert=4'))\n"
        "print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    )
    assert share in run(code, **environment)


def test_auto_respects_a_platform_chosen_in_the_environment():
    code = "build.count_gpus = lambda: 8\nprint(build.prepare_devices(config('mesh.expert=4')))"
    assert "JAX_PLATFORMS asks for the CPU" in run(code, JAX_PLATFORMS="cpu")


def test_gpu_platform_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(build, "count_gpus", lambda: 0)
    monkeypatch.setattr(build.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(build.MeshError, match=r"0 NVIDIA GPUs.*nvidia-smi.*platform=cpu"):
        build.prepare_devices(override(MESH_2X4, ["runtime.platform=gpu"]))


def test_mesh_that_processes_cannot_share_is_refused():
    with pytest.raises(build.MeshError, match="3 processes cannot share a mesh of 8 devices"):
        build.prepare_devices(MESH_2X4, num_processes=3)


def test_running_jax_with_the_right_devices_is_accepted():
    config = override(Config(), [f"mesh.expert={jax.device_count()}"])
    assert build.prepare_devices(config) == jax.default_backend()


@pytest.mark.parametrize("change", ["mesh.expert=3", "runtime.platform=gpu"])
def test_running_jax_with_other_devices_is_refused(change):
    count = jax.device_count()
    config = override(Config(), [f"mesh.expert={count}", change])
    with pytest.raises(build.MeshError, match=f"already started with {count} cpu devices; .*rest"):
        build.prepare_devices(config)


def test_count_gpus_is_zero_without_a_plugin(monkeypatch):
    monkeypatch.setattr(build, "entry_points", lambda group: [])
    assert build.count_gpus() == 0


@pytest.mark.parametrize(
    ("tensor", "hosts", "per_host", "warns"),
    [(8, 2, 8, False), (4, 2, 8, False), (8, 4, 4, True), (3, 2, 8, True), (8, 1, 8, False)],
)
def test_tensor_axis_that_crosses_hosts_is_warned_of(tensor, hosts, per_host, warns, caplog):
    config = override(Config(), [f"mesh.tensor={tensor}"])
    build.warn_of_slow_tensor_axis(config.mesh, named_topology("h100", hosts, per_host))
    told = f"mesh.tensor = {tensor} does not stay inside a host of {per_host} devices"
    assert (told in caplog.text) == warns
