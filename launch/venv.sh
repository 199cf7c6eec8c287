# shellcheck shell=bash
# Sourced by quickstart.sh, test.sh and test_newest.sh: makes the virtual environment inside the
# clone. Not for clusters, where the environment is a module or an image.
#
# PYTHON=/path/to/python3.12 chooses the interpreter; otherwise python3 is taken if it is new enough.
# VENV=.venv-3.12 makes an environment beside the usual one.

VENV=${VENV:-.venv}

say() { printf '== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    is_suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or newer"
    printf '%s\n' "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.12 python3.11 python3.13 python3.14 python; do
    if is_suitable "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer found: install one, or set PYTHON=/path/to/python3.11"
}

# Prints the path of the newest released Python that can make environments: of the commands, and of
# those that pyenv keeps without putting them first.
find_newest_python() {
  local candidate
  {
    compgen -c python3. | grep -x 'python3\.[0-9]*' || true
    if command -v pyenv >/dev/null; then compgen -G "$(pyenv root)/versions/*/bin/python3" || true; fi
  } | sort -u | while read -r candidate; do
    "$candidate" -c '
import ensurepip, sys, venv
if sys.version_info.releaselevel == "final":
    print(sys.version_info.minor, sys.version_info.micro, sys.executable)
' 2>/dev/null </dev/null || true
  done | sort -k 1,1n -k 2,2n | tail -n 1 | cut -d ' ' -f 3-
}

# Usage: make_venv ROOT [EXTRAS]. Installs ROOT into ROOT/$VENV, with extras such as [test].
make_venv() {
  local root=$1 extras=${2:-} venv=$1/$VENV python stamp
  if ! is_suitable "$venv/bin/python"; then
    python=$(find_python) || exit 1
    say "creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" ||
      fail "$python cannot create virtual environments (on Debian: apt install python3-venv)"
  fi
  # What was installed last time; an unchanged pyproject.toml needs no second look at the index.
  stamp=$venv/installed$extras.toml
  if ! cmp -s "$root/pyproject.toml" "$stamp"; then
    say "installing moe-jax$extras and what it needs (a few minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root$extras" ||
      fail "pip could not install $root$extras: see its message above"
    cp "$root/pyproject.toml" "$stamp"
  fi
}
