#!/usr/bin/env bash
# Qwen2.5-VL as it was published, without fine-tuning: a baseline of text generation.
# It takes the variables and flags of scripts/text_generate/evaluate.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./models/mine NPROC=8 bash scripts/text_generate/evaluate_qwen2.5vl.sh
set -euo pipefail
: "${CKPT_MODEL:=./models/Qwen2.5-VL-3B-Instruct}"
ZERO_SHOT=True
# shellcheck source=scripts/text_generate/evaluate.sh
source "$(dirname "$0")/evaluate.sh"
