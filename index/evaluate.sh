#!/usr/bin/env bash
# Measure the newest training run of one dataset, or CKPT_PATH, or INDEX_FILE. Flags of index/evaluate_index.py may follow.
#   DATASET=Games bash index/evaluate.sh
#   INDEX_FILE=data/Games/index/qwen7B/Games.index_qwen7B.json bash index/evaluate.sh
set -euo pipefail
cd "$(dirname "$0")/.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${MODEL_NAME:=llama-td}"
: "${INDEX_FILE:=}" # an index, of ours or of others, or a .npy of codes: measured instead of a run
: "${CKPT_DIR:=./data/$DATASET/index/$MODEL_NAME}"
: "${CKPT_PATH:=$(ls -t "$CKPT_DIR"/*/best_collision_model.pth 2>/dev/null | head -n 1 || true)}" # the newest run
: "${DEVICE:=auto}"
: "${BATCH_SIZE:=2048}"
: "${LOG_FILE:=./log/index/evaluate_$(date +%Y%m%d%H%M%S).log}"

if [[ -z $INDEX_FILE && -z $CKPT_PATH && -z $ask_help ]]; then
    echo "no run in $CKPT_DIR: train one with bash index/run.sh, or set CKPT_PATH" >&2
    [[ ${DRY_RUN:-0} != 0 ]] && CKPT_PATH=$CKPT_DIR/NEWEST_RUN || exit 1
fi

if [[ -n $INDEX_FILE ]]; then
    measured=(--index_file "$INDEX_FILE")
else
    measured=(--ckpt_path "$CKPT_PATH")
fi

launch "$LOG_FILE" python3 -u index/evaluate_index.py "${measured[@]}" --device "$DEVICE" --batch_size "$BATCH_SIZE" "$@"
