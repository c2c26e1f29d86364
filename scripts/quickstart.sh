#!/usr/bin/env bash
# Installs what is missing, then goes the whole way once: data, embeddings, SIDs, fine-tuning, evaluation, report.
#   bash scripts/quickstart.sh               a small dataset that it makes, on any machine
#   bash scripts/quickstart.sh --small       the same in little time
#   bash scripts/quickstart.sh --data DIR    your dataset; its files are never changed
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)" # and stay, since DIR may be relative
# shellcheck source=env.sh
source "$here/env.sh"

exec "$PYTHON" "$here/quickstart.py" "$@"
