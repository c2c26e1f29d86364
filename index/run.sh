#!/usr/bin/env bash
# Train the RQ-VAE of one dataset. Any flag of index/main.py may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games DEVICE=cuda:1 bash index/run.sh --epochs 200
set -euo pipefail
cd "$(dirname "$0")/.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${MODEL_NAME:=llama-td}"
: "${DATA_PATH:=./data/$DATASET/$DATASET.emb-$MODEL_NAME.npy}"
: "${KMEANS_MODE:=large}" # large | small | none
: "${CKPT_DIR:=./data/$DATASET/index/$MODEL_NAME}"
: "${DEVICE:=auto}"
: "${LOG_FILE:=./log/index/index_$(date +%Y%m%d%H%M%S).log}"

case "$KMEANS_MODE" in
    large) KMEANS_FLAGS=(--kmeans_init True --large_scale_kmeans True) ;;
    small) KMEANS_FLAGS=(--kmeans_init True --large_scale_kmeans False) ;;
    none) KMEANS_FLAGS=(--kmeans_init False --large_scale_kmeans False) ;;
    *) echo "KMEANS_MODE=$KMEANS_MODE is unknown: use large, small or none" >&2 && exit 2 ;;
esac

launch "$LOG_FILE" python3 -u index/main.py --data_path "$DATA_PATH" --ckpt_dir "$CKPT_DIR" \
    --num_emb_list 256 256 256 256 --sk_epsilons 0 0 0 0.003 "${KMEANS_FLAGS[@]}" --device "$DEVICE" "$@"
