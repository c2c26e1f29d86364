# Sourced by the launchers scripts/*/*.sh and index/*.sh: how a long command is started.
#   launch LOGFILE COMMAND [ARGUMENT...]
# prints the command as it can be pasted and runs it in the background, where it outlives the terminal. The log's folder
# is made; the process id lies beside the log, in the same name with .pid. From the environment:
#   DRY_RUN=1      only print the command
#   FOREGROUND=1   wait; show the output as well as logging it; return the command's exit status
# The python3 on PATH is used where it has torch, else the environment of scripts/env.sh.
# shellcheck shell=bash

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

launch() {
  if [[ $# -lt 2 ]]; then
    echo "usage: launch LOGFILE COMMAND [ARGUMENT...]" >&2
    return 2
  fi
  local log_file="$1"
  shift
  local pid_file="${log_file%.log}.pid"

  printable "$@"
  if [[ -n "${DRY_RUN:-}" && "$DRY_RUN" != 0 ]]; then
    return 0
  fi

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
    return "$status"
  fi

  # `set -m` gives the command a process group of its own: one kill reaches whatever it starts.
  local pid
  pid="$(
    set -m
    nohup sh -c "$start" "$pid_file" "$@" >"$log_file" 2>&1 </dev/null &
    echo $!
  )" || return
  echo "$pid" >"$pid_file" # the same number; it is there when launch returns
  echo "process $pid, log $log_file"
  echo "  follow: $(printable tail -f "$log_file")"
  echo "  stop:   kill -- -$pid"
}
