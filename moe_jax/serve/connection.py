"""What HTTP asks of an answer: bodies of bounded size, clients that go away, parts as they come."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from moe_jax.serve.errors import ApiError

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body.

    Args:
        request: whose body has not been read.
        limit: bytes that are read, at most.

    Raises:
        ApiError: it is larger, or not declared as JSON.
        ClientGone: the client left before its end.
    """
    # A page in a browser cannot send this type to another origin without asking it first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise ApiError(415, "the body must be JSON: set content-type to application/json")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise ApiError(413, f"the body has more than {limit} bytes: send less")
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what `work` returns, or cancel it as soon as the client goes away.

    Args:
        receive: ASGI's, of the request.
        work: what makes its answer.

    Raises:
        ClientGone: it did.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for other in (task, gone):
            other.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        parts: the texts of the events.
        ended: called with whether the client stayed until the end, in any case once.
    """

    def __init__(self, parts: AsyncIterator[str], ended: Callable[[bool], None]):
        super().__init__(
            (f"data: {part}\n\n" async for part in parts),
            media_type="text/event-stream",
            # nginx would collect parts otherwise.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as ASGI has it; a client that leaves is no error."""
        stayed = False
        try:
            await unless_gone(receive, self.stream_response(send))
            stayed = True
        except ClientGone:
            pass
        finally:
            self._ended(stayed)
