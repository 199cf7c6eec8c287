"""A server over an engine without a model, in a process of its own. Run by test_server.py."""

from support.serving.fake_engine import FakeEngine
from support.serving.served import BYTES, MODEL, SETTINGS

from moe_jax.serve.assemble import make_server
from moe_jax.serve.server import listen


def main() -> None:
    bound = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = make_server(FakeEngine(delay=0.02), BYTES, MODEL, SETTINGS, bound)
    print("ended", server.run(lambda: print(url, flush=True)))


if __name__ == "__main__":
    main()
