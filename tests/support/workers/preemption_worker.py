"""One of two processes that step until told to stop: `INDEX PORT`. Prints the step it saw."""

import sys
import time

import jax
from jax.experimental.multihost_utils import sync_global_devices
from support.checkpoint_cases import join_two

from moe_jax.checkpoint import watch_preemption


def main(index: str, port: str) -> None:
    join_two(int(index), int(port))
    with watch_preemption() as requested:
        print("ready", flush=True)
        for step in range(600):
            if requested(step):
                print("stopped", step, flush=True)
                break
            sync_global_devices(f"step {step}")
            time.sleep(0.1)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
