# Sourced by the launchers scripts/*/*.sh and index/*.sh: how a long command is started.
#   launch LOGFILE COMMAND [ARGUMENT...]
# prints the command as it can be pasted and runs it in the background, where it outlives the terminal. The log's folder
# is made; the process id lies beside the log, in the same name with .pid. Data that the command names must be there; one
# that fails within two seconds (six under torchrun) has its log shown and its exit status returned.
#   launch_ranks LOGFILE PROGRAM [ARGUMENT...]
# starts PROGRAM, a file or -m and a module, by torchrun as NPROC processes, which meet at MASTER_PORT. From the environment:
#   DRY_RUN=1      only print the command
#   FOREGROUND=1   wait; show the output as well as logging it; return the command's exit status
#   NNODES=2       launch_ranks: the job runs on so many machines. Start the launcher on each of them, with
#                  NODE_RANK=0, 1, ... and MASTER_ADDR, the name or address of the machine that has NODE_RANK=0
#   RUN_STAMP=x    stands in the names of new runs in place of the time: on several machines a run has one name
# A launcher that is given --help prints its own header and the flags of its command, and runs nothing.
# The python3 on PATH is used where it has torch, else the environment of scripts/env.sh.
# shellcheck shell=bash

WATCH_TENTHS=20       # how long a command that was started is watched, in tenths of a second
RANKS_WATCH_TENTHS=60 # the same under torchrun, which takes some seconds to start
TAIL_LINES=20         # of the log of a command that failed at once
: "${RUN_STAMP:=$(date +%Y%m%d%H%M%S)}"

ask_help=""
for argument in "$@"; do # those of the launcher that sources this
  if [[ "$argument" == --help || "$argument" == -h ]]; then
    ask_help=1
    DRY_RUN=1 # launchers ask for nothing on the way to their command
  fi
done
unset argument
launcher="$0"
[[ "$launcher" == /* ]] || launcher="${OLDPWD:-.}/$launcher" # launchers have changed to the repository root

printable() { # the arguments as one line that a shell reads back as the same arguments
  local argument line=""
  for argument in "$@"; do
    if [[ ! "$argument" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      argument="$(printf '%q' "$argument")"
    fi
    line+="${line:+ }$argument"
  done
  printf '%s\n' "$line"
}

newest_folder() { # the folder in $1 that changed last, for launchers that continue from a run
  local folder newest=""
  for folder in "$1"/*/; do
    if [[ -d "$folder" && (-z "$newest" || "$folder" -nt "$newest") ]]; then
      newest="${folder%/}"
    fi
  done
  printf '%s\n' "${newest:-$1/none-yet}"
}

use_environment() {
  local has_torch='import sys, importlib.util; sys.exit(importlib.util.find_spec("torch") is None)'
  local GREC_PYTHON="${GREC_PYTHON:-}"
  if [[ -z "$GREC_PYTHON" ]] && python3 -c "$has_torch" >/dev/null 2>&1; then
    GREC_PYTHON=python3
  fi
  # shellcheck source=env.sh
  source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
}

show_help() { # the header of the launcher, then the flags of the Python entry in its command
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$launcher"
  local entry=()
  while [[ $# -gt 0 && ${#entry[@]} == 0 ]]; do
    case "$1" in
      -m) entry=(-m "${2:-}") ;;
      *.py) entry=("$1") ;;
    esac
    shift
  done
  if [[ ${#entry[@]} -gt 0 ]]; then
    use_environment || return
    echo
    python3 "${entry[@]}" --help
  fi
}

check_inputs() { # data, index, weights and checkpoint that the command names must be there; the last of a flag counts
  local data_path="" dataset="" checkpoint="" index="" model="" lora="" flag value place
  while [[ $# -gt 0 ]]; do
    flag="${1%%=*}" value="${2:-}"
    [[ "$1" == *=* ]] && value="${1#*=}"
    case "$flag" in
      --data_path) data_path="$value" ;;
      --dataset) dataset="$value" ;;
      --ckpt_model | --ckpt_path) checkpoint="$value" ;;
      --index_file) index="$value" ;;
      --base_model | --model) model="$value" ;;
      --lora) lora="$value" ;;
    esac
    shift
  done
  if [[ -n "$data_path" && "$data_path" != *.npy && -n "$dataset" ]]; then
    data_path="$data_path/$dataset"
  fi
  # A suffix (.index_x.json), a list, or a name that transformers or a server knows is no path; a whole model has no base.
  [[ "$index" == */* && "$index" != *,* ]] || index=""
  [[ "$model" == /* || "$model" == ./* || "$model" == ../* ]] && [[ ! "$lora" =~ ^([Ff]alse|0|no|off)$ ]] || model=""
  if [[ "$checkpoint" == */none-yet ]]; then
    echo "no fine-tuned model in ${checkpoint%/none-yet}: train one with bash scripts/finetune/train_ddp_vl.sh, or set CKPT_MODEL" >&2
    return 1
  fi
  for place in "$data_path" "$index" "$model" "$checkpoint"; do
    if [[ -n "$place" && ! -e "$place" ]]; then
      echo "$place does not exist: set the variables at the top of ${launcher#"$PWD"/}, there or in the environment" >&2
      return 1
    fi
  done
}

message_of() { # the last lines of log $1, at most $2: without the pages that torchrun adds to what a rank said
  local said
  said="$(sed '/torch.distributed.elastic.*failed (exitcode/,$d' "$1" | tail -n "$2")"
  printf '%s\n' "${said:-$(tail -n "$2" "$1")}"
}

since_error() { # lines from the last one that begins an error, else the last one
  awk '{line[NR] = $0} /(^|: )error: / {from = NR} END {for (n = from ? from : NR; n <= NR; n++) print line[n]}'
}

launch() {
  if [[ $# -lt 2 ]]; then
    echo "usage: launch LOGFILE COMMAND [ARGUMENT...]" >&2
    return 2
  fi
  local log_file="$1"
  shift
  local pid_file="${log_file%.log}.pid"

  if [[ -n "$ask_help" ]]; then
    show_help "$@"
    exit
  fi
  printable "$@"
  if [[ -n "${DRY_RUN:-}" && "$DRY_RUN" != 0 ]]; then
    return 0
  fi

  check_inputs "$@" || return
  use_environment || return
  mkdir -p "$(dirname "$log_file")" || return
  # The shell in between leaves its process id and becomes the command.
  # shellcheck disable=SC2016
  local start='echo $$ >"$0" && exec "$@"'
  if [[ -n "${FOREGROUND:-}" && "$FOREGROUND" != 0 ]]; then
    local status=0
    (
      set -o pipefail
      sh -c "$start" "$pid_file" "$@" 2>&1 | tee "$log_file"
    ) || status=$?
    rm -f "$pid_file"
    if [[ $status != 0 && "$1" == torchrun ]]; then
      echo "it ended with status $status: $(message_of "$log_file" "$TAIL_LINES" | since_error)" >&2
    fi
    return "$status"
  fi

  # `set -m` gives the command a process group of its own: one kill reaches whatever it starts.
  local pid tenths=0 status=0
  set -m
  nohup sh -c "$start" "$pid_file" "$@" >"$log_file" 2>&1 </dev/null &
  pid=$!
  set +m
  echo "$pid" >"$pid_file" # the same number; it is there when launch returns
  while [[ $tenths -lt $WATCH_TENTHS ]] && kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
  if ! kill -0 "$pid" 2>/dev/null; then
    wait "$pid" || status=$?
    rm -f "$pid_file"
    if [[ $status != 0 ]]; then
      echo "it ended at once, with status $status. The end of its log, $log_file:" >&2
      message_of "$log_file" "$TAIL_LINES" >&2
      return "$status"
    fi
    echo "done at once, log $log_file"
    return
  fi
  echo "process $pid, log $log_file"
  echo "  follow: $(printable tail -f "$log_file")"
  echo "  stop:   kill -- -$pid"
}

launch_ranks() {
  local log_file="$1" nodes=() WATCH_TENTHS="$RANKS_WATCH_TENTHS"
  shift
  if [[ "${NNODES:-1}" != 1 ]]; then
    if [[ ! "$NNODES" =~ ^[1-9][0-9]*$ || ! "${NODE_RANK:-}" =~ ^[0-9]+$ || "${NODE_RANK:-0}" -ge "$NNODES" ]]; then
      echo "NNODES=$NNODES machines need NODE_RANK from 0 to one less, another on each; here it is '${NODE_RANK:-}'" >&2
      return 2
    fi
    if [[ -z "${MASTER_ADDR:-}" ]]; then
      echo "NNODES=$NNODES machines need MASTER_ADDR, the name or address of the machine that has NODE_RANK=0" >&2
      return 2
    fi
    nodes=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR")
    log_file="${log_file%.log}_node$NODE_RANK.log" # machines share the folder of logs
  fi
  launch "$log_file" torchrun ${nodes[@]+"${nodes[@]}"} --nproc_per_node="$NPROC" --master_port="$MASTER_PORT" "$@"
}
