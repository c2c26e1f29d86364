#!/usr/bin/env bash
# All seven embeddings of a vision-language model, with and without pictures, and the table that compares them.
# Any flag of scripts/extract_rep.py may follow; DRY_RUN=1 only prints the command. Started again after a kill, it goes on.
#   DATASET=Games NPROC=8 bash scripts/data/extract_rep.sh --modes orig
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MODEL:=./models/Qwen2-VL-2B-Instruct}" # a folder with the weights, or a name that transformers knows
: "${BATCH_SIZE:=8}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33327}"
: "${LOG_FILE:=./log/data/extract_rep_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" scripts/extract_rep.py \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --model "$MODEL" \
  --batch-size "$BATCH_SIZE" \
  "$@"
