#!/usr/bin/env bash
# BLIP-2 as it was published, without fine-tuning: a baseline of text generation, asked field by field.
# It takes the variables and flags of scripts/text_generate/evaluate.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./models/mine NPROC=8 bash scripts/text_generate/evaluate_blip2.sh
set -euo pipefail
: "${CKPT_MODEL:=./models/blip2-opt-2.7b}"
ZERO_SHOT=True
# shellcheck source=scripts/text_generate/evaluate.sh
source "$(dirname "$0")/evaluate.sh"
