#!/usr/bin/env bash
# Installs what GRec runs on: into the conda environment `grec` where conda exists, into .venv otherwise.
# A second run finds that nothing changed and ends at once.
#   bash setup.sh
#   GREC_VENV=~/envs/grec bash setup.sh      a virtual environment there, conda or not
#   GREC_BASE_PYTHON=python3.12 bash setup.sh   the Python that makes the virtual environment
#   GREC_TORCH_INDEX=URL bash setup.sh       the package index that torch comes from, e.g. one with CPU builds
# Progress goes to standard error. With --prefix, standard output is the folder of the environment (scripts/env.sh asks).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$root"
SECONDS=0

say() { echo "setup: $*" >&2; }
fail() {
  say "$*"
  exit 1
}
has_gpu() { nvidia-smi -L >/dev/null 2>&1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
fingerprint() { cat constraints.txt requirements.txt pyproject.toml setup.sh | cksum; }

case "${1:-}" in
  "" | --prefix) ;;
  --help | -h)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' setup.sh
    exit
    ;;
  *) fail "unknown argument $1; this takes none, --prefix or --help" ;;
esac

# ---- where ----
conda="${CONDA_EXE:-$(type -P conda || true)}"
[[ -n "${GREC_VENV:-}" ]] && conda=""

conda_prefix() { # conda takes a second to say where `grec` lies, so look in the usual places first
  local base folder
  base="$(dirname "$(dirname "$conda")")"
  for folder in "${CONDA_PREFIX:-}" "$base/envs/grec" "$HOME/.conda/envs/grec"; do
    if [[ "${folder##*/}" == grec && -x "$folder/bin/python" ]]; then
      echo "$folder"
      return
    fi
  done
  "$conda" run -n grec python -c 'import sys; print(sys.prefix)' 2>/dev/null || true
}

if [[ -n "$conda" ]]; then
  prefix="$(conda_prefix)"
else
  prefix="${GREC_VENV:-$root/.venv}"
  [[ "$prefix" == /* ]] || prefix="$root/$prefix"
fi

finish() {
  [[ "${1:-}" == --prefix ]] && echo "$prefix"
  exit 0
}
up_to_date() {
  [[ -n "$prefix" && -x "$prefix/bin/python" && "$(cat "$prefix/.setup-stamp" 2>/dev/null)" == "$(fingerprint)" ]]
}

if up_to_date; then
  [[ "${1:-}" == --prefix ]] || say "$prefix is up to date (${SECONDS} s)"
  finish "$@"
fi

# Two scripts may find the environment missing at the same moment: the second waits here, then has nothing to do.
if type -P flock >/dev/null; then
  exec 9<"$root"
  flock 9
  if up_to_date; then finish "$@"; fi
fi

# ---- the environment ----
if [[ -n "$conda" && -z "$prefix" ]]; then
  say "creating the conda environment grec"
  "$conda" create -y -n grec "python=3.12" pip >&2 || fail "conda could not create the environment grec; see above"
  prefix="$(conda_prefix)"
  [[ -n "$prefix" ]] || fail "conda created grec but does not find it; try: GREC_VENV=.venv bash setup.sh"
elif [[ -z "$conda" ]] && ! new_enough "$prefix/bin/python"; then
  base_python=""
  for candidate in ${GREC_BASE_PYTHON:+"$GREC_BASE_PYTHON"} python3 python3.13 python3.12 python3.11; do
    if new_enough "$candidate"; then
      base_python="$candidate"
      break
    fi
  done
  [[ -n "$base_python" ]] || fail "GRec needs Python 3.11 or newer, and python3 here is $(python3 --version 2>&1 || true)." \
    "Install one (or conda), or name it: GREC_BASE_PYTHON=/path/to/python3.12 bash setup.sh"
  say "creating $prefix with $("$base_python" --version)"
  "$base_python" -m venv --clear "$prefix" >&2 ||
    fail "$base_python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
fi
python="$prefix/bin/python"
new_enough "$python" || fail "the Python of $prefix is older than 3.11. Remove that environment and run this again"

# ---- the packages ----
rm -f "$prefix/.setup-stamp"
export DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1 # DeepSpeed compiles its operators when they are first used
pip_install() { "$python" -m pip install -qq "$@" >&2 || fail "pip failed; its message stands above. Run this again to continue"; }

torch_version="$(sed -n 's/^torch==//p' constraints.txt)"
say "installing torch $torch_version"
pip_install ${GREC_TORCH_INDEX:+--index-url "$GREC_TORCH_INDEX"} "torch==$torch_version"

cuda="$("$python" -W ignore -c 'import torch; print(torch.version.cuda or "")')" || fail "torch was installed but does not import"
if has_gpu && [[ -z "$cuda" ]]; then
  say "WARNING: this machine has a GPU, but a CPU build of torch came in, so the GPU stays unused." \
    "Remedy: rm -rf '$prefix', then GREC_TORCH_INDEX=<index with CUDA builds of torch> bash setup.sh"
elif ! has_gpu && [[ -n "$cuda" ]]; then
  say "WARNING: this machine has no GPU, but the CUDA $cuda build of torch came in. It works and wastes gigabytes." \
    "Remedy: rm -rf '$prefix', then GREC_TORCH_INDEX=<index with CPU builds of torch> bash setup.sh"
fi

say "installing the packages of requirements.txt and the development tools"
dev_tools=()
while IFS= read -r requirement; do dev_tools+=("$requirement"); done < <("$python" - <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["dev"], sep="\n")
PYTHON
)
[[ ${#dev_tools[@]} -gt 0 ]] || fail "pyproject.toml lists no development tools"
pip_install -c constraints.txt -r requirements.txt "${dev_tools[@]}"

fingerprint >"$prefix/.setup-stamp"
say "done in ${SECONDS} s. To use it in this shell: source scripts/env.sh"
finish "$@"
