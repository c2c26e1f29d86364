#!/usr/bin/env bash
# Look at a few answers: what was asked, what the model wrote, what is right. Any flag of src.text_generation.case may
# follow; DRY_RUN=1 only prints the command, FOREGROUND=1 shows the output here.
#   DATASET=Games CKPT_MODEL=./output/Games/mine FOREGROUND=1 bash scripts/text_generate/case.sh --items 3,17
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
: "${TEST_TASK:=text_enrich}"
: "${LOG_FILE:=./log/text_generate/case_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u -m src.text_generation.case \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --base_model "$BASE_MODEL" \
  --ckpt_model "$CKPT_MODEL" \
  --lora "$LORA" \
  --test_task "$TEST_TASK" \
  --test_prompt_ids 0 \
  "$@"
