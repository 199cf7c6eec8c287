"""Exit codes differ, fit a shell's byte, and are all explained."""

from moe_jax.cli.shared import exit_codes

CODES = {k: v for k, v in vars(exit_codes).items() if k.isupper() and isinstance(v, int)}


def test_every_code_is_another_and_fits_a_byte():
    assert len(set(CODES.values())) == len(CODES)
    assert all(0 <= code < 256 for code in CODES.values())


def test_the_table_explains_each_in_order():
    explained = [int(line.split()[0]) for line in exit_codes.TABLE.splitlines()[1:]]
    assert explained == sorted(CODES.values())
