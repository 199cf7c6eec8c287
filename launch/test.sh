#!/usr/bin/env bash
# Install moe-jax with its test extra into .venv (or VENV, see venv.sh), check the source with ruff
# and pyright and run the tests.
#
# Usage: bash launch/test.sh [arguments for pytest, such as -m "not slow" or tests/config]
#
# With arguments only pytest runs. What ruff or pyright finds fails the command in the end, after
# all tests have run.
#
# Two processes run the files of tests side by side, each on emulated devices of its own; compiling
# keeps about one core busy in each. -n 0 runs all in one, -n 4 in four: about 5 GiB of memory each.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/venv.sh
source "$root/launch/venv.sh"
cd "$root"

make_venv "$root" '[test]'

complaints=()
check() {
  say "$*"
  "$VENV/bin/$1" "${@:2}" || complaints+=("$1")
}

if (($#)); then
  say "pytest only, with $*: ruff and pyright run where no arguments are given"
else
  check ruff check
  check ruff format --check
  check pyright --pythonpath "$VENV/bin/python"
  if ((${#complaints[@]})); then
    say "error: see above what ${complaints[*]} found; the tests run all the same"
  fi
fi

status=0
"$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@" || status=$?
if ((status == 0 && ${#complaints[@]})); then status=1; fi
exit "$status"
