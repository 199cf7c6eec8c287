"""One of two processes that save and restore together: `INDEX PORT OWN_DIR ONE_PROCESS_DIR`.

Any failed expectation ends it with a traceback; the last line of a good run is `ok`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.checkpoint_cases import (
    INFO,
    abstract,
    data_file,
    flip_bit,
    join_two,
    make_state,
    mesh_of,
)

from moe_jax.checkpoint import CheckpointError, Checkpoints, manifest


def assert_local_bits(got, want):
    """Each shard that lives here, bit for bit."""
    for (path, x), y in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
            assert a.index == b.index, path
            assert np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes(), path


def failing(action, words):
    with pytest.raises(CheckpointError, match=words):
        action()


def damaged_checkpoint_is_rejected_by_both(checkpoints, mesh, root):
    if jax.process_index() == 0:
        flip_bit(data_file(root / "00000020"))
    sync_global_devices("flipped")
    wanted = abstract(make_state(0, mesh))
    failing(lambda: checkpoints.restore(wanted, step=20), "does not match the digest")
    restored = checkpoints.restore(wanted)
    assert restored.step == 10
    assert_local_bits(restored.state, make_state(10, mesh))


def failed_commit_in_process_0_is_raised_by_both(checkpoints, mesh):
    build = manifest.build

    def fail(*args):
        raise OSError("No space left on device")

    manifest.build = fail
    checkpoints.save(30, make_state(30, mesh), INFO)
    failing(checkpoints.wait, "process 0: OSError: No space left")
    manifest.build = build


def main(index: str, port: str, own: str, other: str) -> None:
    join_two(int(index), int(port))
    root, mesh = Path(own), mesh_of(8)
    with Checkpoints(other) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(5, mesh)))
    assert_local_bits(restored.state, make_state(5, mesh))

    with Checkpoints(root, keep=2) as checkpoints:
        failing(lambda: checkpoints.save(1, {"x": jnp.ones(3)}, {}), "x lives on this process only")
        for step in (5, 10, 20):
            checkpoints.save(step, make_state(step, mesh), INFO)
        failing(lambda: checkpoints.save(15, make_state(15, mesh), INFO), "holds step 20")
        assert checkpoints.steps() == [10, 20]
        square = mesh_of(2, 4)
        w = jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=NamedSharding(square, P("b", "a")))
        part = checkpoints.restore({"params": {"w": w}}, extra="ignore")
        whole = make_state(20, mesh)["params"]["w"]
        assert_local_bits(part.state["params"]["w"], jax.device_put(whole, w.sharding))
        damaged_checkpoint_is_rejected_by_both(checkpoints, mesh, root)
        failed_commit_in_process_0_is_raised_by_both(checkpoints, mesh)
        checkpoints.save(20, make_state(20, mesh), INFO)
    jax.distributed.shutdown()
    print("ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
