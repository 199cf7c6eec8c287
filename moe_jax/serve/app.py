"""The routes: OpenAI's API, the server's health and its metrics.

What the parameters mean is in `parameters.py` and `request.py`; ports and signals are in
`server.py`.
"""

import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from moe_jax.serve.connection import ClientGone, EventStream, read_body, unless_gone
from moe_jax.serve.engine_thread import EngineThread
from moe_jax.serve.errors import ApiError, broken
from moe_jax.serve.formats import AnswerChoice, ChatFormat, CompletionFormat, Format
from moe_jax.serve.metrics import Metrics, Outcome
from moe_jax.serve.parameters import ChatParameters, CompletionParameters, parse
from moe_jax.serve.request import ApiRequest, RequestBuilder, ServedModel, unknown_model
from moe_jax.serve.ticket import Ticket

#: What a refusal counts as; any other is the request's own fault.
OUTCOMES: dict[int, Outcome] = {401: "unauthorized", 429: "overflow", 500: "failed", 503: "closing"}
#: What nginx calls a client that closed its connection; nobody reads it.
CLIENT_GONE = 499


class Api:
    """Answers requests for one model.

    Args:
        served: the model.
        engine_thread: where its texts are generated.
        metrics: where outcomes are counted; the thread's.
        max_body: bytes of a request, at most.
        max_tokens: tokens generated per text, at most.
        api_key: what clients must present; None lets everybody in.
        hosts: names by which clients may address the server; None allows all.
    """

    def __init__(
        self,
        served: ServedModel,
        engine_thread: EngineThread,
        metrics: Metrics,
        *,
        max_body: int,
        max_tokens: int,
        api_key: str | None,
        hosts: frozenset[str] | None,
    ):
        self._served, self._engine_thread, self._metrics = served, engine_thread, metrics
        self._builder = RequestBuilder(served, max_tokens=max_tokens, max_texts=engine_thread.room)
        self._max_body, self._api_key, self._hosts = max_body, api_key, hosts

    def app(self) -> FastAPI:
        """Return the application."""
        # Requests are read by hand, so there is no schema to show.
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        v1 = APIRouter(prefix="/v1", dependencies=[Depends(self._authorize)])
        v1.add_api_route("/completions", self._completions, methods=["POST"])
        v1.add_api_route("/chat/completions", self._chat, methods=["POST"])
        v1.add_api_route("/models", self._models)
        v1.add_api_route("/models/{name:path}", self._model)
        app.include_router(v1)
        app.add_api_route("/health", self._health)
        app.add_api_route("/metrics", self._show_metrics)
        app.add_exception_handler(ApiError, self._refuse)
        app.add_exception_handler(ClientGone, self._gone)
        app.add_exception_handler(HTTPException, _unknown)
        app.add_exception_handler(Exception, self._broken)
        return app

    async def _authorize(self, request: Request) -> None:
        if self._hosts is not None and request.url.hostname not in self._hosts:
            raise ApiError(
                403,
                f"without an API key this server is addressed as {' or '.join(sorted(self._hosts))}"
                f", not as {request.url.hostname}",
            )
        if self._api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Takes equally long wherever the first wrong byte is. Headers are decoded as Latin-1.
        right = hmac.compare_digest(given.strip().encode("latin-1"), self._api_key.encode())
        if scheme.lower() != "bearer" or not right:
            raise ApiError(
                401,
                "wrong or missing API key: send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )

    async def _completions(self, request: Request) -> Response:
        def prepare(body: bytes) -> ApiRequest:
            return self._builder.completion(parse(body, CompletionParameters))

        return await self._answer(request, prepare, CompletionFormat)

    async def _chat(self, request: Request) -> Response:
        def prepare(body: bytes) -> ApiRequest:
            return self._builder.chat(parse(body, ChatParameters))

        return await self._answer(request, prepare, ChatFormat)

    async def _answer(
        self, request: Request, prepare: Callable[[bytes], ApiRequest], kind: type[Format]
    ) -> Response:
        body = await read_body(request, self._max_body)
        # Long texts take a while to become tokens: other requests go on meanwhile.
        api_request = await run_in_threadpool(prepare, body)
        ticket = self._engine_thread.submit(api_request.texts)
        answer = kind(self._served, api_request)
        choices = [AnswerChoice(index) for index in range(len(api_request.texts))]
        if api_request.stream:
            return self._stream(ticket, api_request, answer, choices)
        try:
            await unless_gone(request.receive, _collect(ticket, choices))
        finally:
            ticket.cancel()
        self._metrics.count("completed")
        return JSONResponse(answer.whole(choices))

    def _stream(
        self, ticket: Ticket, api_request: ApiRequest, answer: Format, choices: list[AnswerChoice]
    ) -> EventStream:
        failures: list[ApiError] = []

        async def parts() -> AsyncIterator[str]:
            try:
                async for part in _parts(ticket, api_request, answer, choices):
                    yield json.dumps(part, separators=(",", ":"))
                yield "[DONE]"
            except ApiError as error:
                # The status has been sent: only the stream itself can still tell.
                failures.append(error)
                yield json.dumps(error.body())

        def ended(stayed: bool) -> None:
            ticket.cancel()
            outcome = OUTCOMES[failures[0].status] if failures else "completed"
            self._metrics.count(outcome if stayed else "disconnected")

        return EventStream(parts(), ended)

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._describe()]}

    async def _model(self, name: str) -> dict[str, Any]:
        if name != self._served.name:
            raise unknown_model(name, self._served.name)
        return self._describe()

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self._served.name,
            "object": "model",
            "created": self._served.created,
            "owned_by": "moe_jax",
            "max_model_len": self._served.context,
        }

    async def _health(self) -> JSONResponse:
        state = self._engine_thread.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def _show_metrics(self) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _refuse(self, request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        if request.method == "POST":
            self._metrics.count(OUTCOMES.get(error.status, "invalid"))
        return JSONResponse(error.body(), error.status, headers=error.headers)

    async def _gone(self, request: Request, error: Exception) -> Response:
        self._metrics.count("disconnected")
        return Response(status_code=CLIENT_GONE)

    async def _broken(self, request: Request, error: Exception) -> JSONResponse:
        self._metrics.count("failed")
        return JSONResponse(broken().body(), 500)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    """Routes and methods that do not exist, in the same form as every other refusal."""
    assert isinstance(error, HTTPException)
    refusal = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)


async def _collect(ticket: Ticket, choices: list[AnswerChoice]) -> None:
    async for index, event in ticket.events():
        choices[index].add(event)


async def _parts(
    ticket: Ticket, api_request: ApiRequest, answer: Format, choices: list[AnswerChoice]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON of a streamed answer; a token without text waits for the next that has."""
    for opening in answer.openings(choices):
        yield opening
    async for index, event in ticket.events():
        choice = choices[index]
        choice.add(event)
        if choice.text or choice.finish:
            yield answer.part(choice)
            choice.sent()
    if api_request.include_usage:
        yield answer.last(choices)
