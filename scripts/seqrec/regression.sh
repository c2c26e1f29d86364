#!/usr/bin/env bash
# Gate: is NEW significantly worse than BASE? Exits 1 on a significant drop beyond MAX_DROP, 2 on an error, else 0.
# Both are results files of the same samples, with their *.predictions.parquet beside them. Runs in the foreground.
#   BASE=results/HMWeek/main.json NEW=results/HMWeek/branch.json bash scripts/seqrec/regression.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# ---- edit here, or set in the environment ----
: "${BASE:=results/Instruments/base.json}"
: "${NEW:=results/Instruments/new.json}"
: "${MAX_DROP:=hit@10=.005,ndcg@10=.003}"
: "${PYTHON:=python3}"
[ -x .venv/bin/python ] && [ "$PYTHON" = python3 ] && PYTHON=.venv/bin/python

command=("$PYTHON" -m src.seqrec.compare "$BASE" "$NEW" --max_drop "$MAX_DROP" "$@")
printf '%q ' "${command[@]}" && echo
[ "${DRY_RUN:-0}" = 1 ] || exec "${command[@]}"
