"""Serves a language model over HTTP as OpenAI's API does, many requests at a time.

One request from outside in, and its answer back:

    bytes at a socket                server        listens, until a signal asks to end
      |
      v  the body                    app           routes, keys, status codes
      |                              (connection: bodies of bounded size, clients that leave)
      v  CompletionParameters,       parameters    which there are, of which types
      |  ChatParameters              (complaints: what is wrong with one, in our words)
      v  ApiRequest: several texts,  request       what they mean for this model; the one check of
      |  a GenerationRequest each                  prompts, by the rules of inference/checks
      v  Ticket                      engine_thread the bounded queue, and the thread that advances
      |                                            the batcher: from here on it is inference/
      v  Event by Event              ticket        from that thread back to the server's loop
      |
      v  JSON, whole or in parts     formats       OpenAI's objects

`assemble` makes a server of these parts; `errors` has the refusals, `metrics` what is counted.
Needs the extra `serve` (fastapi, uvicorn, prometheus_client), so names are imported when used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_jax.serve.assemble import Settings, WarmUp, make_server, warm_up
    from moe_jax.serve.server import Server, is_loopback, listen

__all__ = ["Server", "Settings", "WarmUp", "is_loopback", "listen", "make_server", "warm_up"]
_OF_SERVER = frozenset({"Server", "is_loopback", "listen"})


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: the package alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "server" if name in _OF_SERVER else "assemble"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
