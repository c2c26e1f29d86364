#!/usr/bin/env bash
# Train TIGER from scratch on the SIDs of an index, and evaluate it, on one or many GPUs. Any flag of src.baselines.tiger
# may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games MODEL_NAME=qwen NPROC=4 bash scripts/baselines/tiger.sh --num_layers 6
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${MODEL_NAME:=llama-td}" # of the SID index
: "${DATA_PATH:=./data}"    # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${FILTER_HISTORY:=False}" # True leaves out items that the user already has
: "${RESULTS_FILE:=./results/$DATASET/tiger-$MODEL_NAME.json}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33327}"
: "${LOG_FILE:=./log/baselines/$DATASET/tiger_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" -m src.baselines.tiger \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --filter_history "$FILTER_HISTORY" \
  --results_file "$RESULTS_FILE" \
  "$@"
