"""What is printed beside figures says where they come from."""

import os

import jax

from moe_jax.bench.machine import EMULATED, cores, describe_hardware, gpu_name
from moe_jax.hardware.topology import detect_topology


def test_emulated_devices_are_called_so():
    devices = jax.devices()
    text = describe_hardware(detect_topology(devices), devices[0])
    assert text == f"{len(devices)} x cpu in 1 host ({EMULATED})"


def test_a_chip_that_the_table_lacks_keeps_its_own_name():
    assert gpu_name(jax.devices()[0]) == "cpu"


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
