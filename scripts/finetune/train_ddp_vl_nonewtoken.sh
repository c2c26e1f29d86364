#!/usr/bin/env bash
# Fine-tune a vision-language model to write SIDs in tokens that it already has, as 012a003b; no token is new. Any flag
# of src.finetune.train_ddp_vl_nonewtoken may follow; DRY_RUN=1 only prints the command.
#   DATASET=Games NPROC=8 bash scripts/finetune/train_ddp_vl_nonewtoken.sh --epochs 2
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${BASE_MODEL:=./models/Qwen2.5-VL-3B-Instruct}" # a folder with the weights, or a name that transformers knows
: "${MODEL_TYPE:=qwen2_5_vl}"
: "${MODEL_NAME:=llama-td}" # of the SID index
: "${DATA_PATH:=./data}"    # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${OUTPUT_DIR:=./output/$DATASET/nonewtoken-$MODEL_TYPE-$MODEL_NAME-$RUN_STAMP}"
: "${TASKS:=item2index,seqrec,fusionseqrec}"
: "${DEEPSPEED:=./config/ds_z2_bf16.json}" # ./config/ds_z3_bf16.json for models that one GPU does not hold
: "${NPROC:=1}" # GPUs of this machine to use, or of each: see NNODES in scripts/launch.sh
: "${MASTER_PORT:=33325}"
: "${REPORT_TO:=none}" # none | wandb | tensorboard
: "${LOG_FILE:=./log/finetune/train_ddp_vl_nonewtoken_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" -m src.finetune.train_ddp_vl_nonewtoken \
  --seed 42 \
  --base_model "$BASE_MODEL" \
  --model_type "$MODEL_TYPE" \
  --output_dir "$OUTPUT_DIR" \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --tasks "$TASKS" \
  --per_device_batch_size 8 \
  --gradient_accumulation_steps 3 \
  --use_gradient_checkpointing \
  --num_workers 8 \
  --learning_rate 1e-4 \
  --epochs 4 \
  --weight_decay 0.01 \
  --save_and_eval_strategy epoch \
  --deepspeed "$DEEPSPEED" \
  --bf16 \
  --use_lora \
  --report_to "$REPORT_TO" \
  "$@"

# With ZeRO-3 (ds_z3_*.json) merge the parts of the best checkpoint afterwards, in float32:
# python -m src.merge_zero3 --ckpt_model "$OUTPUT_DIR" --output_dir "$OUTPUT_DIR-merged"
