#!/usr/bin/env bash
# Let a LoRA adapter on its base model write texts about the test items, and judge them.
# It takes the variables and flags of scripts/text_generate/evaluate.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games BASE_MODEL=./models/mine CKPT_MODEL=./output/Games/mine bash scripts/text_generate/evaluate_lora.sh
set -euo pipefail
: "${LORA:=True}"
# shellcheck source=scripts/text_generate/evaluate.sh
source "$(dirname "$0")/evaluate.sh"
