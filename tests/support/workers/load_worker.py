"""One of two processes that read a model onto a mesh of both. Not a test.

Arguments: index, port, the model's directory, a file for what this process holds.
"""

import sys

import jax
import numpy as np
from support.checkpoint_cases import join_two
from support.model_directories import MIXTRAL, config_of

index, port = int(sys.argv[1]), int(sys.argv[2])
join_two(index, port)

from moe_jax.interop.files.directory import HfDirectory  # noqa: E402 (after JAX has joined)
from moe_jax.interop.load import load_weights  # noqa: E402
from moe_jax.mesh.build import build_mesh  # noqa: E402

config = config_of("mesh.expert=8")
directory = HfDirectory(sys.argv[3])
params = load_weights(directory, config, MIXTRAL, build_mesh(config.mesh)).params
experts = params["stacks.0.unit.blocks.0.moe.experts.w_up_edf"]
held = {str(shard.index[1].start): np.asarray(shard.data) for shard in experts.addressable_shards}
np.savez(sys.argv[4], bytes_read=directory.bytes_read, **held)
jax.distributed.shutdown()
