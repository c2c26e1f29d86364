#!/usr/bin/env bash
# Gate: are the texts of NEW significantly worse than those of BASE? Exits 1 on a significant drop beyond MAX_DROP, 2 on
# an error, else 0. Both are results files of the same samples, with their *.predictions.parquet beside them. It is quick
# and its exit status counts, so this always waits. Any flag of src.text_generation.compare may follow.
#   BASE=results/HMWeek/main.json NEW=results/HMWeek/branch.json bash scripts/text_generate/regression.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${BASE:=results/Instruments/base.json}"
: "${NEW:=results/Instruments/new.json}"
: "${MAX_DROP:=rougeL=.01,sentence_bleu4=.01}"
: "${LOG_FILE:=./log/text_generate/regression_$(date +%Y%m%d%H%M%S).log}"

FOREGROUND=1 launch "$LOG_FILE" python3 -u -m src.text_generation.compare "$BASE" "$NEW" --max_drop "$MAX_DROP" "$@"
