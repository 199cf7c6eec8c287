#!/usr/bin/env bash
# Run the same command in N processes on this machine, as one JAX job over gloo on 127.0.0.1: a
# rehearsal of a cluster. Each output line starts with its process's number.
#
# Usage: bash launch/local_cluster.sh N moe-jax train CONFIG [...]
#
# When a process fails, or on Ctrl-C or SIGTERM, the others get SIGTERM and 60 seconds to save.
# The exit code is that of the first process that failed. Processes run on the CPU unless
# JAX_PLATFORMS says otherwise.
set -euo pipefail
# Job control: each process leads a group of its own, so that stopping it stops what it started
# and nothing else.
set -m

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: bash launch/local_cluster.sh N COMMAND [ARGUMENT...], N processes of at least 1" >&2
  exit 2
fi
processes=$1
shift

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -x $root/.venv/bin/moe-jax ]]; then PATH=$root/.venv/bin:$PATH; fi
python=$(command -v "${PYTHON:-python3}") || { echo "error: ${PYTHON:-python3} not found" >&2; exit 1; }
port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export MOE_JAX_COORDINATOR=127.0.0.1:$port
export MOE_JAX_NUM_PROCESSES=$processes

# Ignores the signals sent to its group: it must outlive the process whose last words it prints.
prefix() {
  trap '' INT TERM
  local line
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

start() {
  # A handler, unlike an ignored signal, is not inherited: the command itself still gets it.
  trap : INT TERM
  set -o pipefail
  MOE_JAX_PROCESS_ID=$1 "${@:2}" 2>&1 < /dev/null | prefix "$1"
}

groups=()
for ((i = 0; i < processes; i++)); do
  start "$i" "$@" &
  groups+=("$!")
done

signal_all() {
  local group
  for group in "${groups[@]}"; do kill "-$1" -- "-$group" 2>/dev/null || true; done
}

any_running() {
  local group
  for group in "${groups[@]}"; do if kill -0 "$group" 2>/dev/null; then return 0; fi; done
  return 1
}

# Usage: stop EXIT_CODE
stop() {
  trap '' INT TERM
  signal_all TERM
  local deadline=$((SECONDS + 60))
  while any_running && ((SECONDS < deadline)); do sleep 0.2; done
  signal_all KILL
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM

waiting=("${groups[@]}")
while ((${#waiting[@]})); do
  running=()
  for group in "${waiting[@]}"; do
    if kill -0 "$group" 2>/dev/null; then
      running+=("$group")
      continue
    fi
    code=0
    wait "$group" || code=$?
    if ((code)); then stop "$code"; fi
  done
  # Empty arrays are unset variables to bash before 4.4.
  waiting=(${running[@]+"${running[@]}"})
  if ((${#waiting[@]})); then sleep 0.2; fi
done
