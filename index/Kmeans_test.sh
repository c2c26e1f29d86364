#!/usr/bin/env bash
# Compare the ways in which codebooks can start: one background job trains each mode in turn, then prints a table.
#   DATASET=Games bash index/Kmeans_test.sh --epochs 200
set -euo pipefail
cd "$(dirname "$0")/.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${MODEL_NAME:=llama-td}"
: "${DATA_PATH:=./data/$DATASET/$DATASET.emb-$MODEL_NAME.npy}"
: "${KMEANS_MODE:=large small none}" # the modes to compare
: "${CKPT_DIR:=./data/$DATASET/index/$MODEL_NAME-kmeans}"
: "${DEVICE:=auto}"
: "${LOG_FILE:=./log/index/kmeans_$(date +%Y%m%d%H%M%S).log}"

if [[ -n $ask_help ]]; then
    launch "$LOG_FILE" python3 index/main.py
fi
if [[ ${DRY_RUN:-0} == 0 && -z ${KMEANS_JOB:-} ]]; then # start this file again, as the background job
    export DATASET MODEL_NAME DATA_PATH KMEANS_MODE CKPT_DIR DEVICE LOG_FILE
    launch "$LOG_FILE" env KMEANS_JOB=1 bash index/Kmeans_test.sh "$@"
    exit
fi

runs=()
for mode in $KMEANS_MODE; do
    DATASET=$DATASET MODEL_NAME=$MODEL_NAME DATA_PATH=$DATA_PATH KMEANS_MODE=$mode CKPT_DIR=$CKPT_DIR/$mode \
        DEVICE=$DEVICE LOG_FILE=${LOG_FILE%.log}_$mode.log FOREGROUND=1 bash index/run.sh "$@"
    runs+=("$mode=$CKPT_DIR/$mode")
done
LOG_FILE=${LOG_FILE%.log}_comparison.log
FOREGROUND=1 launch "$LOG_FILE" python3 index/compare_runs.py "${runs[@]}" --output_file "$CKPT_DIR/comparison.png"
