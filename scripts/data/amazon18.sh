#!/usr/bin/env bash
# Amazon reviews of 2018 become data/<DATASET>/. Any flag of data_process/amazon18_data_process.py may follow;
# DRY_RUN=1 only prints the command.
#   DATASET=Games INPUT_PATH=./raw/amazon18 bash scripts/data/amazon18.sh --split temporal
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${INPUT_PATH:=./raw/amazon18}" # holds e.g. Musical_Instruments.csv and meta_Musical_Instruments.json.gz
: "${OUTPUT_PATH:=./data}"
: "${USER_K:=5}"
: "${ITEM_K:=5}"
: "${LOG_FILE:=./log/data/amazon18_${DATASET}_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/amazon18_data_process.py \
  --dataset "$DATASET" \
  --input_path "$INPUT_PATH" \
  --output_path "$OUTPUT_PATH" \
  --user_k "$USER_K" \
  --item_k "$ITEM_K" \
  "$@"
