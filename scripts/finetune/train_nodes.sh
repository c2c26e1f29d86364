#!/usr/bin/env bash
# Fine-tune all weights of a large vision-language model, which ZeRO-3 cuts among the GPUs of several machines. Run it on
# each of them, with its own NODE_RANK from 0, or under Slurm by scripts/slurm.sh; all must see the same data and
# OUTPUT_DIR. Any flag of src.finetune.train_ddp_vl may follow; DRY_RUN=1 only prints the command.
#   MASTER_ADDR=node0 NNODES=2 NODE_RANK=0 NPROC=8 bash scripts/finetune/train_nodes.sh    # on node0
#   MASTER_ADDR=node0 NNODES=2 NODE_RANK=1 NPROC=8 bash scripts/finetune/train_nodes.sh    # on the other
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${BASE_MODEL:=./models/Qwen2.5-VL-7B-Instruct}" # a folder with the weights, or a name that transformers knows
: "${MODEL_TYPE:=qwen2_5_vl}"
: "${MODEL_NAME:=llama-td}" # of the SID index
: "${DATA_PATH:=./data}"    # the folder that holds $DATASET/
: "${INDEX_FILE:=$DATA_PATH/$DATASET/index/$MODEL_NAME/$DATASET.index_$MODEL_NAME.json}"
: "${OUTPUT_DIR:=./output/$DATASET/nodes-$MODEL_TYPE-$MODEL_NAME}" # the same on every machine
: "${TASKS:=item2index,seqrec,fusionseqrec}"
: "${DEEPSPEED:=./config/ds_z3_bf16.json}"
: "${NNODES:=2}"              # machines
: "${NODE_RANK:=0}"           # of this one
: "${MASTER_ADDR:=127.0.0.1}" # name or address of the machine with NODE_RANK 0
: "${NPROC:=1}"              # GPUs of each machine to use
: "${MASTER_PORT:=33325}"
: "${REPORT_TO:=none}" # none | wandb | tensorboard
: "${LOG_FILE:=./log/finetune/train_nodes_$(date +%Y%m%d%H%M%S).log}"

launch_ranks "$LOG_FILE" -m src.finetune.train_ddp_vl \
  --seed 42 \
  --base_model "$BASE_MODEL" \
  --model_type "$MODEL_TYPE" \
  --output_dir "$OUTPUT_DIR" \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --index_file "$INDEX_FILE" \
  --tasks "$TASKS" \
  --per_device_batch_size 8 \
  --gradient_accumulation_steps 1 \
  --use_gradient_checkpointing \
  --num_workers 8 \
  --learning_rate 1e-5 \
  --epochs 4 \
  --weight_decay 0.01 \
  --save_and_eval_strategy epoch \
  --deepspeed "$DEEPSPEED" \
  --bf16 \
  --report_to "$REPORT_TO" \
  "$@"

# With ZeRO-3 (ds_z3_*.json) merge the parts of the best checkpoint afterwards, in float32:
# python -m src.merge_zero3 --ckpt_model "$OUTPUT_DIR" --output_dir "$OUTPUT_DIR-merged"
