#!/usr/bin/env bash
# Your own tables become data/<DATASET>/. Any flag of data_process/csv_data_process.py may follow, such as those that
# name the file of items and its columns; DRY_RUN=1 only prints the command.
#   DATASET=Shop INTERACTIONS=orders.parquet TIME_COLUMN=at bash scripts/data/csv.sh --items_file products.csv
set -euo pipefail
cd "$(dirname "$0")/../.." && source scripts/launch.sh
# ---- edit here, or set in the environment ----
: "${DATASET:=Shop}"
: "${INTERACTIONS:=./raw/interactions.csv}"
: "${USER_COLUMN:=user_id}"
: "${ITEM_COLUMN:=item_id}"
: "${TIME_COLUMN=timestamp}" # empty: the order of the rows counts
: "${TIME_UNIT:=s}" # s | ms | us | ns | text
: "${OUTPUT_PATH:=./data}"
: "${LOG_FILE:=./log/data/csv_${DATASET}_$(date +%Y%m%d%H%M%S).log}"

launch "$LOG_FILE" python3 -u data_process/csv_data_process.py \
  --dataset "$DATASET" \
  --input_path "$INTERACTIONS" \
  --user_column "$USER_COLUMN" \
  --item_column "$ITEM_COLUMN" \
  --time_column "$TIME_COLUMN" \
  --time_unit "$TIME_UNIT" \
  --output_path "$OUTPUT_PATH" \
  "$@"
