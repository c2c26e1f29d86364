#!/usr/bin/env bash
# Evaluate a fine-tuned model on the task item2index, the SID of an item from its words.
# It takes the variables and flags of scripts/seqrec/metric_ddp.sh; DRY_RUN=1 only prints the command.
#   DATASET=Games CKPT_MODEL=./output/Games/mine NPROC=8 bash scripts/seqrec/metric_item2index.sh
set -euo pipefail
TEST_TASK=item2index
# shellcheck source=scripts/seqrec/metric_ddp.sh
source "$(dirname "$0")/metric_ddp.sh"
