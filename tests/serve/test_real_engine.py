"""A mixture of experts, one on each of 8 devices, behind the server."""

import asyncio
import random

import numpy as np
import openai
import pytest
from support.serving.engine_cases import CONTEXT, EXPERT_8, engine, freed, greedy, next_logits
from support.serving.served import MODEL, chat, complete, eventually, serving

from moe_jax.data.tokenizers import ByteTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz012345"


class LetterTokenizer(ByteTokenizer):
    """A letter for each of the model's ids; none ends a text."""

    vocab_size = len(LETTERS)
    end_ids = frozenset()

    def encode(self, text):
        return np.array([LETTERS.index(letter) for letter in text], np.int32)

    def encode_chat(self, messages, **variables):
        return self.encode("".join(message["content"] for message in messages))

    def decode(self, ids):
        return "".join(LETTERS[i] for i in ids)

    def stream_decoder(self, prompt):
        return self

    def push(self, token):
        return LETTERS[token]

    def finish(self):
        return ""


@pytest.mark.slow
def test_64_requests_at_a_time_are_answered_as_by_full_forward_passes():
    tokenizer, rng = LetterTokenizer(), random.Random(0)
    prompts = ["".join(rng.choices(LETTERS, k=rng.randint(1, 14))) for _ in range(64)]
    counts = [rng.randint(1, CONTEXT - 14) for _ in prompts]
    machine = freed(engine(*EXPERT_8, slots=16))

    async def ask(client, index):
        one = {"model": MODEL, "max_tokens": counts[index], "temperature": 0}
        if index % 3 == 0:
            message = {"role": "user", "content": prompts[index]}
            answer = await client.chat.completions.create(messages=[message], **one)
            return answer.choices[0].message.content
        if index % 3 == 1:
            answer = await client.completions.create(prompt=prompts[index], **one)
            return answer.choices[0].text
        parts = await client.completions.create(prompt=prompts[index], stream=True, **one)
        return "".join([part.choices[0].text async for part in parts])

    async def leave(client):
        """Two that go away after their first part."""
        for _ in range(2):
            parts = await client.completions.create(
                model=MODEL, prompt="abc", max_tokens=CONTEXT - 3, stream=True
            )
            await anext(aiter(parts))
            await parts.close()

    async def overflow(client):
        """Fills slots and queue, is refused what goes beyond, and gets all that was accepted."""
        one = {"model": MODEL, "prompt": "abc", "max_tokens": 12, "temperature": 0}
        parts = aiter(await client.completions.create(**one, n=66, stream=True))
        texts = [""] * 66
        part = await anext(parts)
        with pytest.raises(openai.RateLimitError, match="waiting for a slot"):
            await client.completions.create(**one, n=60)
        with pytest.raises(openai.BadRequestError, match="67 texts"):
            await client.completions.create(**one, n=67)
        with pytest.raises(openai.BadRequestError, match="21 or fewer"):
            await client.completions.create(**one | {"max_tokens": CONTEXT})
        while part is not None:
            texts[part.choices[0].index] += part.choices[0].text
            part = await anext(parts, None)
        assert set(texts) == {tokenizer.decode(greedy(tokenizer.encode("abc"), 12))}

    async def ask_all(url):
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asked = [ask(client, index) for index in range(64)]
            found = (await asyncio.gather(*asked, leave(client)))[:64]
            await overflow(client)
            return found

    # Room for 66 texts.
    with serving(machine, tokenizer=tokenizer, queue=50) as server:
        got = asyncio.run(ask_all(f"{server.url}/v1"))
        eventually(lambda: sum(server.outcomes().values()) == 64 + 2 + 4)
        outcomes = server.outcomes()
    wanted = [
        tokenizer.decode(greedy(tokenizer.encode(prompt), count))
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    assert got == wanted
    # Those who left may have got it all before they were seen to leave.
    assert outcomes["completed"] + outcomes.get("disconnected", 0) == 64 + 2 + 1
    assert (outcomes["overflow"], outcomes["invalid"]) == (1, 2)


@pytest.mark.slow
def test_penalties_and_alternatives_are_those_of_full_forward_passes():
    tokenizer = LetterTokenizer()
    tokens = tokenizer.encode("bcdef")
    wanted = greedy(tokens, 10, frequency=0.3, presence=0.4)
    assert wanted != greedy(tokens, 10)
    logits = [next_logits([*tokens.tolist(), *wanted[:n]]) for n in range(10)]
    logprobs = [one - np.log(np.exp(one).sum()) for one in logits]
    likeliest = [np.argsort(-one)[:5].tolist() for one in logits]

    def letters(place):
        return [LETTERS[token] for token in likeliest[place]]

    one = {"max_tokens": 10, "frequency_penalty": 0.3, "presence_penalty": 0.4}
    user = {"role": "user", "content": "bcdef"}
    machine = freed(engine(*EXPERT_8, slots=16))
    with serving(machine, tokenizer=tokenizer) as server, server.client() as client:
        completion = complete(client, prompt="bcdef", logprobs=5, **one).choices[0]
        plain = complete(client, prompt="bcdef", max_tokens=10).choices[0]
        more = {"logprobs": True, "top_logprobs": 5, "stream": True}
        parts = list(chat(client, messages=[user], **more, **one))
    assert plain.text == tokenizer.decode(greedy(tokens, 10))
    assert completion.text == tokenizer.decode(wanted)
    content = [t for p in parts if p.choices[0].logprobs for t in p.choices[0].logprobs.content]
    assert [token.token for token in content] == [LETTERS[token] for token in wanted]
    for place, named in enumerate(completion.logprobs.top_logprobs):
        assert list(named)[:5] == letters(place)
        assert LETTERS[wanted[place]] in named
        assert [other.token for other in content[place].top_logprobs] == letters(place)
        found = [other.logprob for other in content[place].top_logprobs]
        np.testing.assert_allclose(found, logprobs[place][likeliest[place]], atol=1e-5)
