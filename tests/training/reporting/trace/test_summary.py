"""The lines that a profiled run prints."""

from support.profiles import write_profile

from moe_jax.training.reporting.trace.summary import summarize_profile


def test_lines_say_where_a_steps_time_goes(tmp_path):
    write_profile(tmp_path)
    first, moved, reduced, slower = summarize_profile(tmp_path, steps=2)
    assert first == (
        "profile of 2 steps (measured), 0.05 ms each: matmul 50.0%, grouped matmul 15.0%, "
        "elementwise, copies 10.0%, exposed collectives 20.0%, idle 5.0%"
    )
    assert moved == "  all-to-all: 0.0225 ms a step, 77.8% hidden behind compute"
    assert reduced == "  all-reduce: 0.005 ms a step, 0.0% hidden behind compute"
    assert slower == "  products beside collectives take 1.50 x their time alone"
