"""Generation on one device, against a forward pass of exactly the text so far.

Other meshes are tested below; the cache that generation really uses is tested in tests/inference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training_cases import ONE_DEVICE, session_on_first_devices, small_config

from moe_jax.bench.decode.full_forward import Generator
from moe_jax.inference.sampling_options import SamplingOptions

GREEDY = SamplingOptions(temperature=0)
WINDOW = 8
#: Large enough that an untrained model's greedy text does not repeat one token.
SIZES = (f"data.sequence_length={WINDOW}", "model.init_std=0.3", "model.num_layers=1")


@pytest.fixture(scope="module")
def session():
    return session_on_first_devices(small_config(*ONE_DEVICE, *SIZES))


@pytest.fixture(scope="module")
def arrays(session):
    return session.skeleton.init(0, session.mesh)


@pytest.fixture(scope="module")
def generator(session, arrays):
    return make_generator(session, arrays, samples=2)


def make_generator(session, arrays, samples):
    return Generator(session.skeleton, session.parallel, arrays, samples=samples, platform="cpu")


def generated(generator, prompt, count, options=GREEDY):
    """Returns [samples, count] token ids."""
    return np.stack(list(generator.stream(np.array(prompt), count, options)), axis=1)


def greedy_without_padding(session, arrays, prompt, count):
    """Returns `count` tokens, each from a forward pass over the last WINDOW tokens alone."""
    model = session.skeleton.merge(arrays)

    @jax.jit
    def following(tokens):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
        (x_bsd,), _ = model.hidden(tokens, positions, jnp.ones_like(tokens), session.parallel)
        return jnp.argmax(model.head(x_bsd[:, -1:], model.embedding))

    text = list(prompt)
    for _ in range(count):
        text.append(int(following(jnp.array(text[-WINDOW:], jnp.int32)[None, None])))
    return text[len(prompt) :]


@pytest.mark.slow
def test_greedy_is_the_likeliest_at_every_position_also_beyond_the_window(
    session, arrays, generator
):
    prompt, count = [72, 101, 108, 108, 111, 32], 8
    want = greedy_without_padding(session, arrays, prompt, count)
    assert len(set(want)) > 3
    got = generated(generator, prompt, count)
    assert got.tolist() == [want, want]
    assert got.dtype == np.int32


@pytest.mark.slow
def test_prompt_longer_than_the_window_is_seen_by_its_end(generator):
    end = list(range(40, 40 + WINDOW))
    np.testing.assert_array_equal(
        generated(generator, [1, 2, 3, *end], 3), generated(generator, end, 3)
    )


def test_seed_decides_the_text_and_samples_differ(generator):
    first = generated(generator, [65], 12, SamplingOptions(temperature=1.0, seed=3))
    again = generated(generator, [65], 12, SamplingOptions(temperature=1.0, seed=3))
    other = generated(generator, [65], 12, SamplingOptions(temperature=1.0, seed=4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


def test_other_options_compile_nothing_new(generator, caplog):
    generated(generator, [65], 1, SamplingOptions(temperature=1.0, seed=3))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        generated(generator, [65], 1, SamplingOptions(temperature=0.5, top_k=3, seed=99))
    assert "_next_token" not in caplog.text


def test_any_number_of_samples(session, arrays):
    assert generated(make_generator(session, arrays, samples=3), [65], 1).shape == (3, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(("mesh.pipe=2", "mesh.expert=4", "pipeline.microbatches=1"), id="pipe 2"),
        pytest.param(
            (
                "mesh.pipe=2",
                "mesh.expert=2",
                "pipeline.microbatches=4",
                "pipeline.virtual_stages=2",
                "train.remat=full",
            ),
            id="interleaved, trained with 4 microbatches",
        ),
        pytest.param(("mesh.expert=4", "mesh.tensor=2"), id="expert 4, tensor 2"),
        pytest.param(
            ("mesh.fsdp=2", "mesh.pipe=2", "mesh.tensor=2", "mesh.expert=1"),
            id="fsdp, pipe, tensor",
        ),
    ],
)
def test_greedy_text_does_not_depend_on_the_layout(layout):
    got, want = greedy_text(layout), greedy_text(ONE_DEVICE)
    assert got == want
    assert len(set(want)) > 2


@functools.cache
def greedy_text(layout):
    """Returns the text of one sample, fewer than most meshes have batch shards."""
    sizes = (*SIZES, "model.num_layers=5", "train.global_batch=32", "exchange.streams=1")
    session = session_on_first_devices(small_config(*sizes, *layout))
    arrays = session.skeleton.init(0, session.mesh)
    (text,) = generated(make_generator(session, arrays, samples=1), [72, 101, 108, 108], 6)
    return tuple(text.tolist())


def test_dropping_exchange_is_refused(arrays):
    session = session_on_first_devices(small_config(*ONE_DEVICE, *SIZES, "exchange.overflow=drop"))
    with pytest.raises(ValueError, match=r"exchange\.overflow='rounds'"):
        make_generator(session, arrays, samples=1)


def test_nothing_to_do_is_refused_before_the_first_token(session, arrays, generator):
    with pytest.raises(ValueError, match=r"samples \(0\)"):
        make_generator(session, arrays, samples=0)
    with pytest.raises(ValueError, match="prompt is empty"):
        generator.stream(np.array([], np.int32), 1, GREEDY)
    with pytest.raises(ValueError, match=r"max_tokens \(0\)"):
        generator.stream(np.array([65]), 0, GREEDY)
