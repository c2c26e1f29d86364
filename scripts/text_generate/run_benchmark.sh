#!/usr/bin/env bash
# A list of models on one task of text generation, one after another, and one table. Edit the list in CONFIG.
# Any flag of src.text_generation.benchmark may follow, such as --only GRec; DRY_RUN=1 only prints the command.
#   CONFIG=config/text_generation_benchmark.yml bash scripts/text_generate/run_benchmark.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${CONFIG:=config/text_generation_benchmark.yml}"
: "${LOG_FILE:=./log/text_generate/benchmark_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u -m src.text_generation.benchmark --config "$CONFIG" "$@"
