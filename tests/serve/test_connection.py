"""Reading bodies, part by part as a server hands them over."""

import asyncio

import pytest
from starlette.requests import Request

from moe_jax.serve.connection import ClientGone, read_body
from moe_jax.serve.errors import ApiError

JSON = "application/json"


class Client:
    """Sends the parts of a body, then goes away; knows how many were asked for."""

    def __init__(self, *parts, kind=JSON, whole=True):
        self._messages = [
            {"type": "http.request", "body": part, "more_body": not whole or index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
        self._headers = [(b"content-type", kind.encode())]
        self.asked = 0

    async def _receive(self):
        self.asked += 1
        if self.asked > len(self._messages):
            return {"type": "http.disconnect"}
        return self._messages[self.asked - 1]

    def read(self, limit=100):
        scope = {"type": "http", "method": "POST", "path": "/", "headers": self._headers}
        return asyncio.run(read_body(Request(scope, self._receive), limit))


def test_a_body_may_have_as_many_bytes_as_the_limit_in_all():
    assert Client(b"x" * 60, b"y" * 40).read() == b"x" * 60 + b"y" * 40


def test_parts_that_are_too_large_together_are_refused_without_the_rest():
    client = Client(*[b"x" * 40] * 9)
    with pytest.raises(ApiError, match="more than 100 bytes") as raised:
        client.read()
    assert raised.value.status == 413
    assert client.asked == 3


@pytest.mark.parametrize("kind", ["Application/JSON", "application/json; charset=utf-8"])
def test_json_is_json_however_it_is_written(kind):
    assert Client(b"{}", kind=kind).read() == b"{}"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json5", "text/x;application/json"])
def test_other_types_are_refused_before_anything_is_read(kind):
    client = Client(b"{}", kind=kind)
    with pytest.raises(ApiError, match="set content-type") as raised:
        client.read()
    assert (raised.value.status, client.asked) == (415, 0)


def test_a_client_that_leaves_halfway_is_gone():
    with pytest.raises(ClientGone):
        Client(b"{", whole=False).read()
