#!/usr/bin/env bash
# The recommendation baselines, one after another, on the splits and metrics of the models. Any flag that they all have may
# follow; DRY_RUN=1 only prints the commands. They are quick, so this waits; FOREGROUND=0 starts them in the background.
#   DATASET=Games bash scripts/baselines/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${BASELINES:=popularity cooccurrence itemknn}"
: "${RESULTS_DIR:=./results/$DATASET}"
: "${LOG_DIR:=./log/baselines/$DATASET}"
: "${FOREGROUND:=1}"

for baseline in $BASELINES; do
  launch "$LOG_DIR/$baseline.log" python3 -u -m "src.baselines.$baseline" \
    --dataset "$DATASET" \
    --data_path "$DATA_PATH" \
    --results_file "$RESULTS_DIR/$baseline.json" \
    "$@"
done
