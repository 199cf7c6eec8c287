"""The mesh, its order of devices, and the hosts of its shards."""

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


@pytest.mark.parametrize(
    ("tensor", "hosts", "per_host", "warns"),
    [(8, 2, 8, False), (4, 2, 8, False), (8, 4, 4, True), (3, 2, 8, True), (8, 1, 8, False)],
)
def test_tensor_axis_that_crosses_hosts_is_warned_of(tensor, hosts, per_host, warns, caplog):
    config = override(Config(), [f"mesh.tensor={tensor}"])
    build.warn_of_slow_tensor_axis(config.mesh, named_topology("h100", hosts, per_host))
    told = f"mesh.tensor = {tensor} does not stay inside a host of {per_host} devices"
    assert (told in caplog.text) == warns
