#!/usr/bin/env bash
# Installs what is missing and runs the tests: by default the fast ones, on the CPU.
#   bash scripts/test.sh
#   bash scripts/test.sh slow                 or: gpu, all
#   bash scripts/test.sh tests/scripts -k launch   anything that pytest takes
#   bash scripts/test.sh --cov                fails below 90 % coverage of the pure core (pyproject.toml lists it)
set -euo pipefail
if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
fi
cd "$(dirname "$0")/.." && source scripts/env.sh

case "${1:-}" in
  fast) shift && set -- -m "not slow and not gpu" "$@" ;;
  slow) shift && set -- -m slow "$@" ;;
  gpu) shift && set -- -m gpu "$@" ;;
  all) shift && set -- -m "slow or not slow" "$@" ;;
esac
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -n 2 "$@"
