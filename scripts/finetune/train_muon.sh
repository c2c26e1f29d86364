#!/usr/bin/env bash
# Fine-tune a text or vision-language model with Muon for its hidden matrices, and AdamW for the rest; plain DDP, since
# Muon needs whole matrices. Any flag of src.finetune.train_muon may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games MODEL_TYPE=qwen2_5_vl BASE_MODEL=./models/Qwen2.5-VL-3B-Instruct bash scripts/finetune/train_muon.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${BASE_MODEL:=./models/Qwen2.5-0.5B-Instruct}" # a folder with the weights, or a name that transformers knows
: "${MODEL_TYPE:=qwen2_5}"
: "${MODEL_NAME:=llama-td}" # of the SID index
: "${DATA_PATH:=./data}"    # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${OUTPUT_DIR:=./output/$DATASET/muon-$MODEL_TYPE-$MODEL_NAME-$RUN_STAMP}"
: "${TASKS:=item2index,seqrec,fusionseqrec}"
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33325}"
: "${REPORT_TO:=none}" # none | wandb | tensorboard
: "${LOG_FILE:=./log/finetune/train_muon_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" -m src.finetune.train_muon \
  --seed 42 \
  --base_model "$BASE_MODEL" \
  --model_type "$MODEL_TYPE" \
  --output_dir "$OUTPUT_DIR" \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --tasks "$TASKS" \
  --per_device_batch_size 16 \
  --gradient_accumulation_steps 2 \
  --use_gradient_checkpointing \
  --num_workers 8 \
  --learning_rate 2e-5 \
  --epochs 4 \
  --weight_decay 0.01 \
  --save_and_eval_strategy epoch \
  --bf16 \
  --report_to "$REPORT_TO" \
  "$@"
