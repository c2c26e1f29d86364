#!/usr/bin/env bash
# Installs what is missing, then goes the whole way once: data, embeddings, SIDs, fine-tuning, evaluation, report.
#   bash scripts/quickstart.sh               a small dataset that it makes, on any machine
#   bash scripts/quickstart.sh --small       the same in little time
#   bash scripts/quickstart.sh --data DIR    your dataset, read only
set -euo pipefail
cd "$(dirname "$0")/.." && source scripts/env.sh

exec "$PYTHON" scripts/quickstart.py "$@"
