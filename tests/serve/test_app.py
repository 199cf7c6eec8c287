"""Answers, as OpenAI's own client sees them over real connections."""

import asyncio
import random

import openai
import pytest
from support.serving.fake_engine import FakeEngine, alone, alternatives, logprob, scripted
from support.serving.served import BYTES, MODEL, USER, chat, complete, greedy, render, serving

from moe_jax.inference.sampling_options import SamplingOptions


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(slots=4, context=128)) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


def test_a_completion_is_what_the_model_says(client):
    answer = complete(client)
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.choices[0].text == greedy("abc", 8)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 8, 11)


def test_a_streamed_completion_has_the_same_text_in_parts(client):
    parts = list(complete(client, stream=True))
    assert "".join(part.choices[0].text for part in parts) == greedy("abc", 8)
    assert len(parts) == 8
    assert [part.choices[0].finish_reason for part in parts] == [None] * 7 + ["length"]
    assert {part.id for part in parts} == {parts[0].id}
    assert all(part.usage is None for part in parts)


def test_a_chat_goes_through_the_template(client):
    answer = chat(client)
    assert answer.object == "chat.completion"
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", greedy(render([USER]), 8))
    assert answer.usage.prompt_tokens == len(render([USER]))


def test_variables_of_the_template_reach_it():
    class Thinking(type(BYTES)):
        def encode_chat(self, messages, *, enable_thinking=True):
            return self.encode(f"{render(messages)}{enable_thinking}")

    with serving(tokenizer=Thinking()) as server, server.client() as client:
        more = {"chat_template_kwargs": {"enable_thinking": False}}
        answer = chat(client, extra_body=more).choices[0].message.content
        assert answer == greedy(f"{render([USER])}False", 8)
        assert chat(client).choices[0].message.content == greedy(f"{render([USER])}True", 8)


def test_a_streamed_chat_begins_with_the_role_and_ends_with_usage(client):
    parts = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert parts[0].object == "chat.completion.chunk"
    assert (parts[0].choices[0].delta.role, parts[0].choices[0].delta.content) == ("assistant", "")
    texts = [part.choices[0].delta.content or "" for part in parts[:-1]]
    assert "".join(texts) == greedy(render([USER]), 8)
    assert parts[-2].choices[0].finish_reason == "length"
    assert (parts[-1].choices, parts[-1].usage.completion_tokens) == ([], 8)


def test_content_may_come_in_parts_and_answers_may_be_sent_back(client):
    answer = chat(client).choices[0].message
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}, answer.model_dump(), USER]
    plain = [USER, {"role": "assistant", "content": answer.content}, USER]
    assert chat(client, messages=messages).choices[0].message.content == greedy(render(plain), 8)


def test_a_chat_without_a_limit_runs_to_the_end_of_the_context(client):
    answer = chat(client, max_tokens=None, messages=[{"role": "user", "content": "x" * 80}])
    assert answer.usage.total_tokens == 128
    assert answer.choices[0].finish_reason == "length"


def test_a_completion_without_a_limit_has_sixteen_tokens(client):
    assert complete(client, max_tokens=None).usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_and_choices_come_in_order(client, stream):
    answer = complete(client, prompt=["abc", "xyz"], n=2, stream=stream)
    texts = [""] * 4
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == [greedy("abc", 8)] * 2 + [greedy("xyz", 8)] * 2


def test_prompts_may_be_token_ids(client):
    ids = BYTES.encode("abc").tolist()
    assert complete(client, prompt=ids).choices[0].text == greedy("abc", 8)
    assert complete(client, prompt=[ids, ids]).choices[1].text == greedy("abc", 8)


def test_a_seed_repeats_itself_and_each_choice_has_its_own(client):
    def texts(**more):
        answer = complete(client, temperature=1.0, n=2, max_tokens=20, **more)
        return [choice.text for choice in answer.choices]

    assert texts(seed=5) == texts(seed=5)
    assert texts(seed=5)[1] == texts(seed=6)[0] != texts(seed=5)[0]
    assert texts(seed=-1)[1] == texts(seed=0)[0]
    assert texts() != texts()


def test_parameters_of_openai_and_of_other_servers_reach_the_sampler():
    seen = []

    def following(tokens, sampling):
        seen.append(sampling)
        return 97

    more = {"top_k": -1, "min_p": 0.25, "repetition_penalty": 1.5}
    own = {"temperature": 0.5, "top_p": 0.75, "frequency_penalty": -2, "presence_penalty": 1.5}
    own["logit_bias"] = {"97": 2, "5": -0.5}
    with serving(FakeEngine(following=following)) as server, server.client() as client:
        complete(client, max_tokens=1, **own, seed=3, logprobs=4, extra_body=more)
        chat(client, max_tokens=1, **own, seed=3, logprobs=True, top_logprobs=4, extra_body=more)
        complete(client, max_tokens=1, extra_body={"top_k": 2**60})
    assert seen[2] == SamplingOptions(temperature=0.0, top_k=257, seed=seen[2].seed)
    assert vars(seen[0]) == vars(seen[1])
    assert vars(seen[0]) == {
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 0,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "frequency_penalty": -2.0,
        "presence_penalty": 1.5,
        "logit_bias": ((97, 2.0), (5, -0.5)),
        "top_logprobs": 4,
        "seed": 3,
    }


def test_neutral_and_irrelevant_parameters_are_accepted(client):
    answer = complete(
        client, frequency_penalty=0.0, presence_penalty=0, best_of=1, logit_bias={}, user="me"
    )
    assert answer.choices[0].text == greedy("abc", 8)
    answer = chat(client, tools=[], tool_choice="none", response_format={"type": "text"})
    assert answer.choices[0].message.content == greedy(render([USER]), 8)


@pytest.mark.parametrize("stop", ["END", ["two", "END"]])
def test_stop_strings_and_end_tokens_end_an_answer(stop):
    engine = FakeEngine(following=scripted([*b"one END two"], 3))
    with serving(engine) as server, server.client() as client:
        answer = complete(client, stop=stop)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one ", "stop")
        parts = [part.choices[0] for part in complete(client, stop=stop, stream=True)]
        assert "".join(part.text for part in parts) == "one "
        assert parts[-1].finish_reason == "stop"
    engine = FakeEngine(following=scripted([*b"hi", 256], 3))
    with serving(engine) as server, server.client() as client:
        answer = complete(client)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hi", "stop")
        assert answer.usage.completion_tokens == 3


def test_characters_are_never_sent_in_halves():
    engine = FakeEngine(following=scripted(list("aé€".encode()), 3))
    with serving(engine) as server, server.client() as client:
        parts = list(complete(client, max_tokens=6, stream=True))
    assert [part.choices[0].text for part in parts] == ["a", "é", "€"]


def test_an_empty_prompt_begins_a_document(client):
    wanted = alone([BYTES.end_id], 8, SamplingOptions(temperature=0))
    assert complete(client, prompt="").choices[0].text == BYTES.decode(wanted)


def test_echo_puts_the_prompt_first(client):
    assert complete(client, echo=True).choices[0].text == "abc" + greedy("abc", 8)
    ids = BYTES.encode("abc").tolist()
    parts = list(complete(client, prompt=ids, echo=True, stream=True))
    assert parts[0].choices[0].text == "abc"
    assert "".join(part.choices[0].text for part in parts) == "abc" + greedy("abc", 8)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_completion_are_those_of_its_tokens(client, stream):
    answer = complete(client, logprobs=0, stream=stream)
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    text = greedy("abc", 8)
    assert [token for part in parts for token in part.tokens] == list(text)
    found = [value for part in parts for value in part.token_logprobs]
    assert found == [logprob(ord(letter)) for letter in text]
    assert [offset for part in parts for offset in part.text_offset] == list(range(8))
    assert {part.top_logprobs for part in parts} == {None}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat_are_those_of_its_tokens(client, stream):
    answer = chat(client, logprobs=True, top_logprobs=0, stream=stream)
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    if stream:
        assert parts[0] is None, "the opening brings no token"
    tokens = [token for part in parts if part for token in part.content]
    text = greedy(render([USER]), 8)
    assert [(t.token, t.logprob, t.bytes) for t in tokens] == [
        (letter, logprob(ord(letter)), [ord(letter)]) for letter in text
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_names_the_likeliest_tokens_and_the_chosen_one(client, stream):
    answer = complete(client, logprobs=3, stream=stream)
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    assert all(len(part.tokens) == len(part.top_logprobs) for part in parts)
    tokens = BYTES.encode(greedy("abc", 8)).tolist()
    assert [named for part in parts for named in part.top_logprobs] == [
        {chr(one): value for one, value in (*alternatives(token, 3), (token, logprob(token)))}
        for token in tokens
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_names_the_likeliest_tokens_in_their_order(client, stream):
    answer = chat(client, logprobs=True, top_logprobs=20, stream=stream)
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    found = [token for part in parts if part for token in part.content]
    tokens = BYTES.encode(greedy(render([USER]), 8)).tolist()
    assert [token.token for token in found] == list(map(chr, tokens))
    for token, named in zip(tokens, found, strict=True):
        # Bytes beyond ASCII are parts of characters.
        assert [(one.token, one.bytes, one.logprob) for one in named.top_logprobs] == [
            (chr(other), [other], value) if other < 128 else ("\ufffd", None, value)
            for other, value in alternatives(token, 20)
        ]


def test_of_tokens_with_one_text_a_completion_names_the_likelier():
    with serving(FakeEngine(following=scripted([200], 3))) as server, server.client() as client:
        (named,) = complete(client, max_tokens=1, logprobs=2).choices[0].logprobs.top_logprobs
    assert named == {"\ufffd": alternatives(200, 2)[0][1]}


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.models.retrieve("other")


def test_mixed_requests_at_a_time_are_answered_as_if_alone(server):
    rng = random.Random(0)
    prompts = ["".join(rng.choices("abcdefgh ", k=rng.randint(1, 60))) for _ in range(64)]
    counts = [rng.randint(1, 60) for _ in prompts]

    async def ask(client, index):
        stream = index % 2 == 0
        answer = await complete(
            client, prompt=prompts[index], max_tokens=counts[index], stream=stream
        )
        if not stream:
            return answer.choices[0].text
        return "".join([part.choices[0].text async for part in answer])

    async def ask_all():
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(64)))

    before = server.figures()
    got = asyncio.run(ask_all())
    assert got == [greedy(p, n) for p, n in zip(prompts, counts, strict=True)]
    after = server.figures()
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained["generated_tokens_total"] == sum(counts)
    assert gained["prompt_tokens_total"] == sum(map(len, prompts))
    assert gained['requests_total{outcome="completed"}'] == 64
    assert gained["time_to_first_token_seconds_count"] == 64
    assert gained["time_per_token_seconds_count"] == sum(counts) - 64
    assert (after["slots"], after["running"], after["queue_length"]) == (4, 0, 0)
    # They shared the slots.
    assert max(n for name, n in server.engine.calls if name == "step") == 4
