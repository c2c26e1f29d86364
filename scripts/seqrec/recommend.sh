#!/usr/bin/env bash
# Answer one request: what the model recommends after a history of item ids, or to a user. It is quick, and its answer is
# what counts, so this always waits. Any flag of src.seqrec.recommend may follow, such as --json; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./output/Games/mine HISTORY=12,7,33 bash scripts/seqrec/recommend.sh
#   DATASET=Games CKPT_MODEL=./output/Games/mine USER_ID=A2XVJBSRI3SWDI bash scripts/seqrec/recommend.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${BASE_MODEL:=./models/Qwen2.5-VL-3B-Instruct}" # what the adapter was trained on
: "${CKPT_MODEL:=$(newest_folder "./output/$DATASET")}" # --output_dir of the fine-tuning; by default the newest
: "${LORA:=True}"                                  # False where CKPT_MODEL is a whole model
: "${MODEL_NAME:=llama-td}"                        # of the SID index
: "${DATA_PATH:=./data}"                           # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${HISTORY:=12,7,33}" # item ids, oldest first
: "${USER_ID:=}"        # instead: a user of the dataset, by the original id
: "${LOG_FILE:=./log/seqrec/recommend_$(date +%Y%m%d%H%M%S).log}"

if [[ -n "$USER_ID" ]]; then
  asked=(--user "$USER_ID")
else
  asked=(--history "$HISTORY")
fi

FOREGROUND=1 launch "$LOG_FILE" python3 -u -m src.seqrec.recommend \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --base_model "$BASE_MODEL" \
  --ckpt_model "$CKPT_MODEL" \
  --lora "$LORA" \
  "${asked[@]}" \
  --num_beams 20 \
  --top_k 10 \
  "$@"
