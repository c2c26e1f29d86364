#!/usr/bin/env bash
# Amazon 2018, or RecBole's atomic files, become data/<DATASET>/, as GRec and as RecBole read it. Any flag of
# data_process/amazon18_recbole_data_process.py may follow; DRY_RUN=1 only prints the command.
#   DATASET=ml-100k INPUT_PATH=./raw/ml-100k INPUT_FORMAT=recbole bash scripts/data/recbole.sh --item_k 3
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${INPUT_FORMAT:=amazon18}" # amazon18 | recbole
: "${INPUT_PATH:=./raw/$INPUT_FORMAT}"
: "${OUTPUT_PATH:=./data}"
: "${LOG_FILE:=./log/data/recbole_${DATASET}_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/amazon18_recbole_data_process.py \
  --dataset "$DATASET" \
  --input_format "$INPUT_FORMAT" \
  --input_path "$INPUT_PATH" \
  --output_path "$OUTPUT_PATH" \
  "$@"
