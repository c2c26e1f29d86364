#!/usr/bin/env bash
# Look at a few test users: their history, what the model ranks, and the right answer. Any flag of src.seqrec.case may
# follow; DRY_RUN=1 only prints the command, FOREGROUND=1 shows the output here.
#   DATASET=Games CKPT_MODEL=./output/Games/mine FOREGROUND=1 bash scripts/seqrec/case_seqrec.sh
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
: "${TEST_TASK:=seqrec}"
: "${LOG_FILE:=./log/seqrec/case_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u -m src.seqrec.case \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --base_model "$BASE_MODEL" \
  --ckpt_model "$CKPT_MODEL" \
  --lora "$LORA" \
  --test_task "$TEST_TASK" \
  --num_beams 20 \
  --test_prompt_ids 0 \
  "$@"
