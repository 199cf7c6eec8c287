"""Loaders: the same content on every mesh and process count, local reads only, clean prefetch."""

import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support.places import TESTS

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.config.schema import Config, DataConfig, ExchangeConfig, TrainConfig
from moe_jax.data.batch import Batch, batch_indices
from moe_jax.data.loader import Loader
from moe_jax.data.synthetic import SyntheticSequences

SPEC = PartitionSpec(None, None, BATCH_AXES, None)


def _sharding(sizes: tuple[int, ...], spec: PartitionSpec = SPEC) -> NamedSharding:
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return NamedSharding(Mesh(devices, AXES), spec)


def _config(prefetch: int = 2, accumulation: int = 2, streams: int = 1) -> Config:
    return Config(
        data=DataConfig(sequence_length=8, prefetch=prefetch),
        train=TrainConfig(global_batch=16, accumulation=accumulation),
        exchange=ExchangeConfig(streams=streams),
    )


class Recorder:
    """Synthetic sequences that note what was read, and fail or wait where told."""

    def __init__(self, broken: int = -1, delay: float = 0.0) -> None:
        self.sequences = SyntheticSequences(1000, 8, seed=0)
        self.read: list[int] = []
        self.broken = broken
        self.delay = delay

    def example(self, index: int):
        if index == self.broken:
            raise OSError("the disk went away")
        time.sleep(self.delay)
        self.read.append(index)
        return self.sequences.example(index)

    def fingerprint(self):
        return self.sequences.fingerprint()


def _prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def _await_no_threads() -> None:
    deadline = time.monotonic() + 10
    while _prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _prefetch_threads()


MESHES = [(1, 1, 1, 1, 1), (1, 1, 1, 8, 1), (1, 2, 2, 2, 1), (2, 1, 1, 2, 2), (1, 4, 1, 1, 2)]


@pytest.mark.parametrize("sizes", MESHES)
def test_content_is_the_same_on_every_mesh(sizes):
    config = _config()
    batch = Loader(Recorder(), config, _sharding(sizes))(3)
    for a, n, b in np.ndindex(2, 1, 8):
        index = int(batch_indices(3, config)[a, n, b])
        example = SyntheticSequences(1000, 8, seed=0).example(index)
        for field in fields(Batch):
            value = np.asarray(getattr(batch, field.name))[a, n, b]
            np.testing.assert_array_equal(value, getattr(example, field.name))


def test_arrays_have_the_sharding_and_dtypes_that_were_asked_for():
    sharding = _sharding((1, 2, 1, 4, 1))
    batch = Loader(Recorder(), _config(streams=1), sharding)(0)
    for field in fields(Batch):
        value = getattr(batch, field.name)
        assert value.shape == (2, 1, 8, 8)
        assert value.sharding == sharding
        assert value.dtype == (np.float32 if field.name == "weights" else np.int32)


def test_sequence_dimension_can_be_sharded_too():
    spec = PartitionSpec(None, None, "data", "tensor")
    batch = Loader(Recorder(), _config(), _sharding((1, 4, 1, 1, 2), spec))(1)
    whole = Loader(Recorder(), _config(), _sharding(MESHES[0]))(1)
    np.testing.assert_array_equal(np.asarray(batch.tokens), np.asarray(whole.tokens))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 8, 1), (8, 1, 1, 1, 1)])
def test_each_row_is_read_once_also_when_devices_share_it(sizes):
    dataset = Recorder()
    Loader(dataset, _config(), _sharding(sizes))(2)
    assert sorted(dataset.read) == list(range(32, 48))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_iterating_equals_calling_and_starts_anywhere(prefetch):
    loader = Loader(Recorder(), _config(prefetch), _sharding(MESHES[1]))
    batches = loader.iterate(5)
    for expected in range(5, 11):
        step, batch = next(batches)
        assert step == expected
        np.testing.assert_array_equal(np.asarray(batch.tokens), np.asarray(loader(step).tokens))
    batches.close()
    _await_no_threads()


def test_batches_are_read_ahead_and_not_further():
    dataset = Recorder()
    batches = Loader(dataset, _config(prefetch=2), _sharding(MESHES[0])).iterate(0)
    next(batches)
    deadline = time.monotonic() + 10
    while len(dataset.read) < 3 * 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(dataset.read) == list(range(3 * 16))
    batches.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_error_while_reading_ahead_is_raised_at_its_step(prefetch):
    loader = Loader(Recorder(broken=3 * 16 + 5), _config(prefetch), _sharding(MESHES[0]))
    batches = loader.iterate(1)
    assert [next(batches)[0], next(batches)[0]] == [1, 2]
    with pytest.raises(OSError, match="the disk went away"):
        next(batches)
    _await_no_threads()


def test_dropping_the_iterator_in_the_middle_ends_the_threads():
    batches = Loader(Recorder(delay=0.005), _config(), _sharding(MESHES[0])).iterate(0)
    next(batches)
    assert _prefetch_threads()
    del batches
    _await_no_threads()


def test_batch_that_the_mesh_cannot_divide_is_refused():
    with pytest.raises(ValueError, match=r"batch of \(4, 1, 4, 8\) .* cannot be divided over"):
        Loader(Recorder(), _config(accumulation=4), _sharding((1, 1, 1, 8, 1)))


def test_fingerprint_is_that_of_the_data():
    loader = Loader(Recorder(), _config(), _sharding(MESHES[0]))
    assert loader.fingerprint() == SyntheticSequences(1000, 8, seed=0).fingerprint()


WORKER = """
import json, sys
import jax, numpy as np
port, process, tests = sys.argv[1:]
sys.path[:0] = [tests, f"{tests}/data"]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"127.0.0.1:{port}", 2, int(process), coordinator_bind_address=f"127.0.0.1:{port}"
)
from test_loader import Recorder, _config, _sharding
from moe_jax.data.loader import Loader
dataset = Recorder()
loader = Loader(dataset, _config(prefetch=0), _sharding((1, 2, 1, 2, 1)))
batch = next(loader.iterate(3))[1]
rows = {}
for shard in batch.tokens.addressable_shards:
    a, n, b, _ = np.indices(loader.shape)
    ids = (a * loader.shape[2] + b)[shard.index][..., 0].ravel()
    for row, tokens in zip(ids, np.asarray(shard.data).reshape(len(ids), -1)):
        rows[int(row)] = tokens.tolist()
print(json.dumps({"read": sorted(dataset.read), "rows": rows}))
jax.distributed.shutdown()
"""


def _run_two_processes() -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(port), str(process), str(TESTS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return results


@pytest.mark.slow
def test_two_processes_read_only_their_rows_and_together_the_batch_of_one():
    results = _run_two_processes()
    assert not set(results[0]["read"]) & set(results[1]["read"])
    assert sorted(results[0]["read"] + results[1]["read"]) == list(range(48, 64))
    whole = np.asarray(Loader(Recorder(), _config(), _sharding(MESHES[0]))(3).tokens)
    expected = {str(row): tokens.tolist() for row, tokens in enumerate(whole.reshape(16, 8))}
    assert {**results[0]["rows"], **results[1]["rows"]} == expected
    assert all(len(result["rows"]) == 8 for result in results)
