"""Saves one step after another until it is killed: `saving_worker.py DIRECTORY`.

Prints `started N` before the save of step N and `complete N` once N must be restorable.
"""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)

from support.checkpoint_cases import abstract, assert_same_bits, make_state, mesh_of  # noqa: E402

from moe_jax.checkpoint import Checkpoints  # noqa: E402


def main(root: str) -> None:
    mesh = mesh_of(8)
    with Checkpoints(root, keep=2) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0, mesh)))
        step = 0
        if restored is not None:
            step = restored.step
            assert_same_bits(restored.state, make_state(step, mesh))
        while True:
            step += 1
            print("started", step, flush=True)
            checkpoints.save(step, make_state(step, mesh), {"step": step})
            if step % 3 == 0:
                checkpoints.wait()
                print("complete", step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
