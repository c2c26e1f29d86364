#!/usr/bin/env bash
# Let a fine-tuned model write texts about the test items, on one or many GPUs, and judge them. Any flag of
# src.text_generation.evaluate may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./output/Games/mine NPROC=8 bash scripts/text_generate/evaluate.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${CKPT_MODEL:=$(newest_folder "./output/$DATASET")}" # --output_dir of the fine-tuning; by default the newest
: "${LORA:=False}"                                 # True where CKPT_MODEL is an adapter
: "${BASE_MODEL:=./models/Qwen2.5-VL-3B-Instruct}" # what the adapter was trained on
: "${ZERO_SHOT:=False}"                            # True for a published model, asked in words without SIDs
: "${MODEL_NAME:=llama-td}"                        # of the SID index
: "${DATA_PATH:=./data}"                           # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${TEST_TASK:=text_enrich}"
: "${NAME:=$(basename "$CKPT_MODEL")}" # of the model in tables
: "${RESULTS_FILE:=./results/$DATASET/$TEST_TASK-$NAME.json}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33327}"
: "${LOG_FILE:=./log/text_generate/evaluate_${NAME}_$(date +%Y%m%d%H%M%S).log}"

if [[ "$ZERO_SHOT" =~ ^([Tt]rue|1|yes|on)$ ]]; then
  asked=(--zero_shot)
else
  asked=(--index_file "$INDEX_FILE" --base_model "$BASE_MODEL" --lora "$LORA")
fi

launch_ranks "$LOG_FILE" -m src.text_generation.evaluate \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --ckpt_model "$CKPT_MODEL" \
  "${asked[@]}" \
  --test_task "$TEST_TASK" \
  --test_prompt_ids 0 \
  --test_batch_size 16 \
  --model_name "$NAME" \
  --results_file "$RESULTS_FILE" \
  "$@"
