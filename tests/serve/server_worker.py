"""A server over an engine without a model, in a process of its own. Run by test_server.py."""

from fake_engine import FakeEngine
from served import BYTES, MODEL

from moe_jax.inference.batcher import Batcher
from moe_jax.serve.app import Api
from moe_jax.serve.job import Served
from moe_jax.serve.metrics import Metrics
from moe_jax.serve.server import Server, listen
from moe_jax.serve.worker import Worker


def main() -> None:
    engine = FakeEngine(delay=0.02)
    metrics = Metrics()
    worker = Worker(Batcher(engine, BYTES), queue=1, stalled_after=10, metrics=metrics)
    served = Served(MODEL, 1, engine.context, engine.vocab_size, BYTES)
    api = Api(served, worker, metrics, max_body=1000, max_tokens=100, api_key=None)
    bound = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    Server(api.app(), worker, bound, grace=10).run(lambda: print(url, flush=True))
    print("ended")


if __name__ == "__main__":
    main()
