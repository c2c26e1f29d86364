#!/usr/bin/env bash
# Gate: is NEW significantly worse than BASE? Exits 1 on a significant drop beyond MAX_DROP, 2 on an error, else 0.
# Both are results files of the same samples, with their *.predictions.parquet beside them. It is quick, and its exit
# status counts, so this always waits. Any flag of src.seqrec.compare may follow; DRY_RUN=1 only prints the command.
#   BASE=results/HMWeek/main.json NEW=results/HMWeek/branch.json bash scripts/seqrec/regression.sh
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${BASE:=results/Instruments/base.json}"
: "${NEW:=results/Instruments/new.json}"
: "${MAX_DROP:=hit@10=.005,ndcg@10=.003}"
: "${LOG_FILE:=./log/seqrec/regression_$(date +%Y%m%d%H%M%S).log}"

FOREGROUND=1 launch "$LOG_FILE" python3 -u -m src.seqrec.compare "$BASE" "$NEW" --max_drop "$MAX_DROP" "$@"
