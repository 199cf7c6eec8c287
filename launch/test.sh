#!/usr/bin/env bash
# Install moe-jax with its test extra into .venv (or VENV, see venv.sh) and run the tests.
#
# Usage: bash launch/test.sh [arguments for pytest, such as -m "not slow" or tests/config]
#
# Two processes run the files of tests side by side, each on emulated devices of its own; compiling
# keeps about one core busy in each. -n 0 runs all in one, -n 4 in four: about 5 GiB of memory each.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/venv.sh
source "$root/launch/venv.sh"
cd "$root"

make_venv "$root" '[test]'
"$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
