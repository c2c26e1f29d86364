#!/usr/bin/env bash
#SBATCH --job-name=grec
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
# A launcher of training, evaluation or embeddings as a Slurm job: one torchrun a machine. Submit it from the root of the
# repository; the launcher's variables may be set in front, its flags follow it. DRY_RUN=1 bash scripts/slurm.sh ...
# prints what each machine would run.
#   DATASET=Games OUTPUT_DIR=output/Games/mine sbatch scripts/slurm.sh scripts/finetune/train_ddp_vl.sh --epochs 2
#   DATASET=Games CKPT_MODEL=output/Games/mine sbatch --nodes=4 scripts/slurm.sh scripts/seqrec/metric_ddp.sh
# A training job that ended before its time goes on from its newest checkpoint where it is submitted again with the same
# OUTPUT_DIR and --resume_from_checkpoint True; an evaluation goes on by itself.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" # sbatch runs a copy of this file, elsewhere

if [[ $# -lt 1 || ! -f "$1" ]] || ! grep -Eq 'launch_ranks|source .*/(metric_ddp|evaluate)\.sh' "$1"; then
  echo "usage: sbatch scripts/slurm.sh LAUNCHER [FLAG...], with a launcher of scripts/ that starts torchrun" >&2
  exit 2
fi
export NNODES="${SLURM_NNODES:-${NNODES:-2}}" NPROC="${SLURM_GPUS_ON_NODE:-${NPROC:-8}}" FOREGROUND=1
export RUN_STAMP="${RUN_STAMP:-${SLURM_JOB_ID:-$(date +%Y%m%d%H%M%S)}}"          # one name for the run, on all machines
export MASTER_PORT="${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 12000))}" # jobs may share a machine

if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  echo "not under Slurm: this is what each machine would run" >&2
  for ((node = 0; node < NNODES; node++)); do
    DRY_RUN=1 NODE_RANK="$node" MASTER_ADDR="${MASTER_ADDR:-first-machine}" bash "$@"
  done
  exit
fi
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)" # head would cut off a long list, and fail
export MASTER_ADDR
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then
  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # since Slurm 22.05 srun does not take it from sbatch by itself
fi
# A task that fails ends the job, so that no machine waits for one that is gone.
# shellcheck disable=SC2016
srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c 'NODE_RANK="$SLURM_NODEID" exec bash "$@"' bash "$@"
