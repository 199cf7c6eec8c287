#!/usr/bin/env bash
# Install moe-jax with its test extra into .venv and run the tests.
#
# Usage: bash launch/test.sh [arguments for pytest, such as -m "not slow" or tests/config]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/venv.sh
source "$root/launch/venv.sh"
cd "$root"

make_venv "$root" '[test]'
.venv/bin/python -m pytest "$@"
