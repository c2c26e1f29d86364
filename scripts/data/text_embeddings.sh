#!/usr/bin/env bash
# Embeddings of the items' texts by a text encoder.
# Any flag of data_process/text_embeddings.py may follow; DRY_RUN=1 only prints the command. Started again after a kill, it goes on.
#   DATASET=Games NPROC=8 bash scripts/data/text_embeddings.sh --mode enhanced
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MODEL:=./models/all-MiniLM-L6-v2}" # a folder with the weights, or a name that transformers knows
: "${BATCH_SIZE:=64}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33327}"
: "${LOG_FILE:=./log/data/text_embeddings_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" data_process/text_embeddings.py \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --model "$MODEL" \
  --batch-size "$BATCH_SIZE" \
  "$@"
