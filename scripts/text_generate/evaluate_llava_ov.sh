#!/usr/bin/env bash
# LLaVA-OneVision as it was published, without fine-tuning: a baseline of text generation.
# It takes the variables and flags of scripts/text_generate/evaluate.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./models/mine NPROC=8 bash scripts/text_generate/evaluate_llava_ov.sh
set -euo pipefail
: "${CKPT_MODEL:=./models/llava-onevision-qwen2-0.5b-ov-hf}"
ZERO_SHOT=True
# shellcheck source=scripts/text_generate/evaluate.sh
source "$(dirname "$0")/evaluate.sh"
