"""A model on a mesh, assembled from its config."""

import jax
import pytest
from jax.sharding import PartitionSpec
from support.training_cases import session_on_first_devices, small_config

from moe_jax.axes import BATCH_AXES
from moe_jax.config.rules import ConfigError
from moe_jax.mesh.build import build_mesh
from moe_jax.session import make_session


def test_it_holds_the_config_and_the_mesh_that_it_was_made_of():
    config = small_config("mesh.expert=4", "mesh.tensor=2")
    session = session_on_first_devices(config)
    assert session.config is config
    assert dict(session.mesh.shape) == {
        **{"pipe": 1, "data": 1, "fsdp": 1},
        **{"expert": 4, "tensor": 2},
    }
    assert session.platform == "cpu"
    assert session.skeleton.config is config
    assert session.parallel.placement.sizes == dict(session.mesh.shape)


def test_batches_are_split_over_the_batch_axes():
    session = session_on_first_devices(small_config("mesh.expert=4"))
    sharding = session.batch_sharding()
    assert sharding.mesh == session.mesh
    assert sharding.spec == PartitionSpec(None, None, BATCH_AXES)


def test_auto_transport_is_decided_by_the_tokens_of_a_device_at_a_time():
    """Each expert gets a row at least, which for few tokens are more rows than tokens."""
    config = small_config("mesh.expert=8", "exchange.transport=auto", "model.moe.num_experts=16")
    chosen = {
        make_session(
            config, "cpu", batch_tokens=tokens, mesh=build_mesh(config.mesh)
        ).parallel.exchange_spec.transport
        for tokens in (1, 1 << 20)
    }
    assert len(chosen) == 2


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    config = small_config("mesh.expert=8", "mesh.data=2", "train.global_batch=32")
    with pytest.raises(ConfigError, match=rf"16.*{jax.device_count()}"):
        make_session(config, "cpu")
