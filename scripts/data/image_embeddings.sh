#!/usr/bin/env bash
# Embeddings of the items' pictures by an image encoder.
# Any flag of data_process/image_embeddings.py may follow; DRY_RUN=1 only prints the command. Started again after a kill, it goes on.
#   DATASET=Games NPROC=8 bash scripts/data/image_embeddings.sh --skip_bad_images
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MODEL:=./models/siglip-base-patch16-224}" # a folder with the weights, or a name that transformers knows
: "${BATCH_SIZE:=64}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33327}"
: "${LOG_FILE:=./log/data/image_embeddings_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" data_process/image_embeddings.py \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --model "$MODEL" \
  --batch-size "$BATCH_SIZE" \
  "$@"
