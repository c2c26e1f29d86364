#!/usr/bin/env bash
# Evaluate a fine-tuned model over all test users, on one or many GPUs: hit@k and NDCG@k of the ranked items. Any flag of
# src.seqrec.metric_ddp may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./output/Games/mine NPROC=8 bash scripts/seqrec/metric_ddp.sh
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
: "${FILTER_HISTORY:=False}" # True leaves out items that the user already has
: "${RESULTS_FILE:=./results/$DATASET/$TEST_TASK-$(basename "$CKPT_MODEL").json}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33326}"
: "${LOG_FILE:=./log/seqrec/metric_ddp_${TEST_TASK}_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" -m src.seqrec.metric_ddp \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --base_model "$BASE_MODEL" \
  --ckpt_model "$CKPT_MODEL" \
  --lora "$LORA" \
  --test_task "$TEST_TASK" \
  --num_beams 20 \
  --test_batch_size 16 \
  --test_prompt_ids 0 \
  --metrics hit@1,hit@5,hit@10,ndcg@5,ndcg@10 \
  --filter_history "$FILTER_HISTORY" \
  --results_file "$RESULTS_FILE" \
  "$@"
