#!/usr/bin/env bash
# Run the quick tests under the newest Python of this machine, with the newest JAX for it, in an
# environment of their own: what a fresh machine installs. No newer Python than .venv's: no tests.
#
# Usage: bash launch/test_newest.sh [arguments for pytest, such as tests/config]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/venv.sh
source "$root/launch/venv.sh"

minor() { "$1" -c 'import sys; print(sys.version_info.minor)'; }

usual=$root/.venv/bin/python
is_suitable "$usual" || usual=$(find_python)
newest=$(find_newest_python)
if [[ -z $newest ]] || (($(minor "$newest") <= $(minor "$usual"))); then
  say "skipped: the tests under a newer Python (none here is newer than $("$usual" --version))"
  exit
fi
say "the quick tests under $("$newest" --version)"
PYTHON=$newest VENV=.venv-3.$(minor "$newest") exec bash "$root/launch/test.sh" -m "not slow" "$@"
