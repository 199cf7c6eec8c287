#!/usr/bin/env bash
# Install moe-jax into .venv, train configs/quickstart.toml on 8 emulated devices, and sample from
# the result. Run again, it goes on from the last checkpoint.
#
# Usage: bash launch/quickstart.sh [arguments for "moe-jax train", such as --set train.steps=50]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/venv.sh
source "$root/launch/venv.sh"
cd "$root"

make_venv "$root"
say "training configs/quickstart.toml into runs/quickstart"
"$VENV/bin/moe-jax" train configs/quickstart.toml --workdir runs/quickstart --resume auto "$@"
say "sampling from runs/quickstart"
"$VENV/bin/moe-jax" generate runs/quickstart --prompt 'def '
