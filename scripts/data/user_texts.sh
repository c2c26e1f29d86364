#!/usr/bin/env bash
# Texts about users by a language model behind an OpenAI-compatible endpoint, for itemsearch and preferenceobtain.
# Run it again to go on where it ended. Any flag of data_process/get_llm_output.py may follow (--dry_run estimates
# the cost); DRY_RUN=1 only prints the command. The key comes from the environment only: export OPENAI_API_KEY=...
#   OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none DATASET=Games bash scripts/data/user_texts.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MODEL:=Qwen2.5-7B-Instruct}"
: "${PROMPT_LANG:=en}" # en | zh
: "${CONCURRENCY:=16}"
: "${LOG_FILE:=./log/data/user_texts_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/get_llm_output.py \
  --data_path "$DATA_PATH" \
  --dataset "$DATASET" \
  --model "$MODEL" \
  --prompt_lang "$PROMPT_LANG" \
  --concurrency "$CONCURRENCY" \
  "$@"
