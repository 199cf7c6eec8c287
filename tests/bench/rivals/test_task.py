"""A task arrives as it was sent."""

from support.rivals import make_task


def test_a_request_survives_its_journey():
    task = make_task(overrides=("exchange.capacity_factor=1",), cases=("4", "8"))
    assert type(task).loads(task.dumps()) == task


def test_torch_calls_the_platform_by_another_name():
    assert make_task(platform="gpu").device == "cuda"
    assert make_task(platform="cpu").device == "cpu"
