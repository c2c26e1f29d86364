#!/usr/bin/env bash
# The recommendation baselines, on the splits and metrics of the models. Any flag that they all have may follow;
# DRY_RUN=1 only prints the commands. Each is a background job; FOREGROUND=1 runs one after another and waits.
#   DATASET=Games FOREGROUND=1 bash scripts/baselines/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${BASELINES:=popularity cooccurrence itemknn}" # sasrec too, which trains: on a GPU where there is one
: "${RESULTS_DIR:=./results/$DATASET}"
: "${LOG_DIR:=./log/baselines/$DATASET}"

for baseline in $BASELINES; do
  launch "$LOG_DIR/$baseline.log" python3 -u -m "src.baselines.$baseline" \
    --dataset "$DATASET" \
    --data_path "$DATA_PATH" \
    --results_file "$RESULTS_DIR/$baseline.json" \
    "$@"
done
