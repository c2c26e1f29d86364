#!/usr/bin/env bash
# Is a dataset sound? Exits 1 where a file breaks the contract of docs/data_format.md. Its exit status counts, so this
# always waits. Any flag of data_process/validate.py may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games bash scripts/data/validate.sh --json results/Games/validate.json
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${LOG_FILE:=./log/data/validate_${DATASET}_$(date +%Y%m%d%H%M%S).log}"

FOREGROUND=1 launch "$LOG_FILE" python3 -u data_process/validate.py --dataset "$DATA_PATH/$DATASET" "$@"
