# Sourced, by the scripts and by people: puts GRec's Python first on PATH, installing it where it is missing or outdated,
# and sets what every command of GRec wants. Whatever is already set stays. Gives PYTHON.
#   source scripts/env.sh
#   GREC_PYTHON=python3    use this Python as it is, install nothing (a container, an environment of your own)
# shellcheck shell=bash
grec_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ -n "${GREC_PYTHON:-}" ]]; then
  PYTHON="$(type -P "$GREC_PYTHON")" || {
    echo "GREC_PYTHON=$GREC_PYTHON is no command" >&2
    return 1
  }
else
  grec_prefix="$(bash "$grec_root/setup.sh" --prefix)" || return 1
  PYTHON="$grec_prefix/bin/python"
  case ":$PATH:" in
    ":$grec_prefix/bin:"*) ;;
    *) export PATH="$grec_prefix/bin:$PATH" ;;
  esac
fi
export PYTHON

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # spinning threads slow a busy machine down 16 times
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export TRANSFORMERS_VERBOSITY="${TRANSFORMERS_VERBOSITY:-error}"
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}" # DDP warns that all parameters were used, in a run where not all always are
export PYTHONUNBUFFERED="${PYTHONUNBUFFERED:-1}" # so that logs can be followed
if [[ -z "${DS_ACCELERATOR:-}" ]] && ! nvidia-smi -L >/dev/null 2>&1; then
  export DS_ACCELERATOR=cpu
fi
unset grec_root grec_prefix
