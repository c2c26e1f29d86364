#!/usr/bin/env bash
# Download the picture of every item, from the addresses of <dataset>.image_urls.json. Run it again to go on
# where it ended. Any flag of data_process/download_images.py may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games bash scripts/data/download_images.sh --per_host 8
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MAX_SIDE:=512}"     # pixels
: "${LOG_FILE:=./log/data/download_images_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/download_images.py \
  --data_path "$DATA_PATH" \
  --dataset "$DATASET" \
  --max_side "$MAX_SIDE" \
  "$@"
