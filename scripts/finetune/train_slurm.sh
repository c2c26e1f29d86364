#!/usr/bin/env bash
#SBATCH --job-name=grec
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
# The same under Slurm: one torchrun a machine, by scripts/finetune/train_nodes.sh, whose variables may be set in front.
#   DATASET=Games sbatch scripts/finetune/train_slurm.sh --epochs 2
# A job that was killed goes on from its newest checkpoint if it is submitted again with --resume_from_checkpoint True.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/../..}"

export NNODES="${SLURM_NNODES:-2}" NPROC="${SLURM_GPUS_ON_NODE:-8}" FOREGROUND=1
export MASTER_PORT="$((20000 + ${SLURM_JOB_ID:-0} % 20000))" # jobs may share a machine
if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  echo "not under Slurm: this is what every machine would run, each with its own NODE_RANK" >&2
  DRY_RUN=1 exec bash scripts/finetune/train_nodes.sh "$@"
fi
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR
# shellcheck disable=SC2016
srun bash -c 'NODE_RANK="$SLURM_NODEID" exec bash scripts/finetune/train_nodes.sh "$@"' bash "$@"

# With ZeRO-3, the default, merge the parts of the best checkpoint afterwards, in float32:
# python -m src.merge_zero3 --ckpt_model "$OUTPUT_DIR" --output_dir "$OUTPUT_DIR-merged"
