#!/usr/bin/env bash
# Enrich the items of a dataset by a language model behind an OpenAI-compatible endpoint: the references of text_enrich.
# Run it again to go on where it ended. Any flag of data_process/data_enricher.py may follow (--dry_run estimates
# the cost); DRY_RUN=1 only prints the command. The key comes from the environment only: export OPENAI_API_KEY=...
#   OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none DATASET=Games bash scripts/data/enrich.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Instruments}"
: "${DATA_PATH:=./data}" # the folder that holds $DATASET/
: "${MODEL:=Qwen2.5-VL-7B-Instruct}"
: "${PROMPT_LANG:=en}" # en | zh
: "${CONCURRENCY:=16}"
: "${LOG_FILE:=./log/data/enrich_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/data_enricher.py \
  --data_path "$DATA_PATH" \
  --dataset "$DATASET" \
  --model "$MODEL" \
  --prompt_lang "$PROMPT_LANG" \
  --concurrency "$CONCURRENCY" \
  "$@"
