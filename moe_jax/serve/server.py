"""Listens for HTTP until a signal asks to end, and ends in order.

What is answered is `app.py`'s business.
"""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from moe_jax.errors import UserError
from moe_jax.serve.engine_thread import EngineThread

log = logging.getLogger(__name__)

#: Seconds for cancelled answers to leave the process and for the engine to end its last step;
#: connections are cut after that.
FAREWELL = 5


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or address of this machine.
        port: 0 takes any free one.

    Raises:
        UserError: the address is in use, or not one of this machine, or there is no such port.
    """
    # The system would take it modulo 65536.
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port ({port}) must be from 0 (any) to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error}): give another --host or --port"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


class Server:
    """Serves an application whose texts one thread generates.

    Args:
        app: what answers.
        engine_thread: not started yet; it is closed with the server.
        bound: see `listen`; closed with the server.
        grace: seconds that running answers get to finish once the server is asked to end.
    """

    def __init__(
        self, app: FastAPI, engine_thread: EngineThread, bound: socket.socket, *, grace: float
    ):
        self.engine_thread, self._bound, self._grace = engine_thread, bound, grace
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(grace) + FAREWELL,
        )
        self._uvicorn = _Uvicorn(config)

    def run(self, ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `stop`, SIGTERM or SIGINT; signals reach the main thread only.

        Args:
            ready: called when connections are accepted.

        Returns:
            Whether all went well: the engine neither failed nor was left behind, stuck.
        """
        return asyncio.run(self._run(ready))

    def stop(self) -> None:
        """Accept nothing more, lets answers finish; called again, cancels them. From the loop."""
        if self._uvicorn.should_exit:
            log.warning("cancelling %d texts", self.engine_thread.in_flight)
            self.engine_thread.cancel_all()
            return
        log.warning(
            "asked to end: %d texts have %g s to finish; ask again to cancel them",
            self.engine_thread.in_flight,
            self._grace,
        )
        self.engine_thread.drain()
        asyncio.get_running_loop().call_later(self._grace, self.engine_thread.cancel_all)
        self._uvicorn.should_exit = True

    async def _run(self, ready: Callable[[], None]) -> bool:
        self.engine_thread.start()
        try:
            with _signals(self.stop):
                serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[self._bound]))
                while not (self._uvicorn.started or serving.done()):
                    await asyncio.sleep(0.01)
                if self._uvicorn.started:
                    ready()
                await serving
        finally:
            # In a thread: the engine's one still hands this loop its last events.
            ended = await asyncio.to_thread(self.engine_thread.close, FAREWELL)
            self._bound.close()
        return ended and self.engine_thread.state != "failed"


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to us: uvicorn's handlers would end the process by the same signal."""
        yield


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    asked = (signal.SIGTERM, signal.SIGINT)
    try:
        for which in asked:
            loop.add_signal_handler(which, stop)
    except (ValueError, RuntimeError):
        # Not the main thread, which is the only one that may listen to signals.
        yield
        return
    try:
        yield
    finally:
        for which in asked:
            loop.remove_signal_handler(which)
