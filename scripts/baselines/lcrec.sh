#!/usr/bin/env bash
# LC-Rec from text embeddings to results, with the published settings; full fine-tuning wants large GPUs, --use_lora less.
# Any flag of src.baselines.lcrec may follow; DRY_RUN=1 only prints the command. Started again, it goes on.
#   DATASET=Games BASE_MODEL=./models/Llama-3.2-1B NPROC=8 bash scripts/baselines/lcrec.sh --use_lora
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}"                          # the folder that holds $DATASET/
: "${BASE_MODEL:=./models/Qwen2.5-1.5B-Instruct}" # a text model: a folder with the weights, or a name on the hub
: "${EMBEDDING_MODEL:=$BASE_MODEL}"               # makes the text embeddings
: "${DEEPSPEED:=./config/ds_z2_bf16.json}"        # that of ZeRO-3 for models that one GPU does not hold: merged at the end
: "${FILTER_HISTORY:=False}"                      # True leaves out items that the user already has
: "${RESULTS_FILE:=./results/$DATASET/lcrec.json}"
: "${NPROC:=1}" # GPUs of this machine to use
: "${LOG_FILE:=./log/baselines/$DATASET/lcrec_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u -m src.baselines.lcrec \
  --dataset "$DATASET" \
  --data_path "$DATA_PATH" \
  --base_model "$BASE_MODEL" \
  --embedding_model "$EMBEDDING_MODEL" \
  --nproc "$NPROC" \
  --deepspeed "$DEEPSPEED" \
  --bf16 \
  --filter_history "$FILTER_HISTORY" \
  --results_file "$RESULTS_FILE" \
  "$@"
