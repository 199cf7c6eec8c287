"""SIGTERM in one process: a request to stop, and handlers put back."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from support.checkpoint_cases import running, two_processes

from moe_jax.checkpoint import watch_preemption


@pytest.fixture
def outer():
    """A handler of the surrounding program, with the signals it saw."""
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
    yield seen
    signal.signal(signal.SIGTERM, previous)


def test_sigterm_requests_and_does_not_kill(outer):
    with watch_preemption() as requested:
        assert not requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested(2)
        assert requested(3)
    assert outer == []


def test_second_sigterm_acts_as_before(outer):
    with watch_preemption():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert outer == [signal.SIGTERM]


def test_handler_is_put_back_even_after_an_exception(outer):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError, match="mine"), watch_preemption():
        raise KeyError("mine")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_unsaved_process_dies_of_sigterm_outside_the_context():
    code = """
    import os, signal
    from moe_jax.checkpoint import watch_preemption
    with watch_preemption() as requested:
        os.kill(os.getpid(), signal.SIGTERM)
        print(requested(1), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("survived", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout == "True\n"
    assert done.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_two_processes_agree_on_the_step_when_one_gets_sigterm(tmp_path):
    log = tmp_path / "log"
    with running(log, "preemption_worker.py", *two_processes()) as workers:
        for worker in workers:
            assert "ready\n" in worker.stdout, log.read_text()  # reads up to that line
        workers[1].send_signal(signal.SIGTERM)
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    stops = [[line for line in output.splitlines() if "stopped" in line] for output in outputs]
    assert len(stops[0]) == 1, log.read_text()
    assert stops[0] == stops[1]
    assert [worker.returncode for worker in workers] == [0, 0]
