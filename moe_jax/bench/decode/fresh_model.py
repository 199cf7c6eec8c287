"""A model of a config with random weights, to be timed: how fast it is does not depend on them."""

from moe_jax.config import Config
from moe_jax.inference.inference_config import inference_config
from moe_jax.inference.language_model import LanguageModel
from moe_jax.mesh.platform import prepare_devices
from moe_jax.session import make_session


def fresh_model(config: Config) -> LanguageModel:
    """Return the model of `config` on its mesh, without a tokenizer.

    Args:
        config: a checked one; what belongs to training is changed as for any inference.

    Raises:
        UserError: the model cannot be split so, or the devices are not there.
    """
    config = inference_config(config, config.mesh)
    session = make_session(config, prepare_devices(config))
    weights = session.skeleton.init(config.seed, session.mesh)
    return LanguageModel(config.name, session, weights, None)
