#!/usr/bin/env bash
# Evaluate a fine-tuned model on the task mmitem2index, the SID of an item from its picture and words.
# It takes the variables and flags of scripts/seqrec/metric_ddp.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./output/Games/mine NPROC=8 bash scripts/seqrec/metric_mmitem2index.sh
set -euo pipefail
TEST_TASK=mmitem2index
# shellcheck source=scripts/seqrec/metric_ddp.sh
source "$(dirname "$0")/metric_ddp.sh"
