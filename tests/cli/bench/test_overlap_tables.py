"""A profile as tables: without a plan there is no column for one."""

from support.profiles import write_profile

from moe_jax.cli.bench.overlap_tables import collective_times_table, kinds_table
from moe_jax.planner.report.figures import Times
from moe_jax.training.reporting.trace.events import read_events
from moe_jax.training.reporting.trace.measured import measure_profile


def test_a_column_for_the_plan_where_there_is_one(tmp_path):
    profile = measure_profile(read_events(write_profile(tmp_path)))
    planned = Times(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    headings = [
        [str(c.header) for c in kinds_table(profile, 1, p).columns] for p in (None, planned)
    ]
    assert headings[1] == [*headings[0], "compiled ms"]
    assert collective_times_table(profile, 1).row_count == 2
