#!/usr/bin/env bash
# Write the SID index of one dataset from its newest training run, or from CKPT_PATH. Flags of index/generate_indices.py
# may follow.
#   DATASET=Games CKPT_PATH=data/Games/index/qwen7B/2025-01-31_12-00-00 bash index/generate.sh --dedup sinkhorn
set -euo pipefail
cd "$(dirname "$0")/.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${MODEL_NAME:=llama-td}"
: "${OUTPUT_DIR:=./data/$DATASET/index/$MODEL_NAME}"
: "${OUTPUT_FILE:=$DATASET.index_$MODEL_NAME.json}"
: "${CKPT_PATH:=$(ls -t "$OUTPUT_DIR"/*/best_collision_model.pth 2>/dev/null | head -n 1 || true)}" # the newest run
: "${DEVICE:=auto}"
: "${BATCH_SIZE:=64}"
: "${LOG_FILE:=./log/index/generate_$(date +%Y%m%d%H%M%S).log}"

if [[ -z $CKPT_PATH && -z $ask_help ]]; then
    echo "no run in $OUTPUT_DIR: train one with bash index/run.sh, or set CKPT_PATH" >&2
    [[ ${DRY_RUN:-0} != 0 ]] && CKPT_PATH=$OUTPUT_DIR/NEWEST_RUN || exit 1
fi

launch "$LOG_FILE" python3 -u index/generate_indices.py --dataset "$DATASET" --ckpt_path "$CKPT_PATH" \
    --output_dir "$OUTPUT_DIR" --output_file "$OUTPUT_FILE" --device "$DEVICE" --batch_size "$BATCH_SIZE" "$@"
