#!/usr/bin/env bash
# Cofactor's one entry: prepares a private Python environment when it is missing or out of date, then runs.
#
#   ./run.sh --config=macpf --env-config=sc2 with env_args.map_name=corridor    everything after run.sh goes to src/main.py
#   ./run.sh test [pytest arguments]                                            the test suite (quick part by default)
#   ./run.sh install envs                                                       other people's environments, once
#
# COFACTOR_VENV  where the environment lies (default: .venv beside this file)
# Which package index is used, and through which proxy, is pip's own configuration (PIP_INDEX_URL and the like).
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
venv=${COFACTOR_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
python=$venv/bin/python
notes=$venv/.cofactor # made: by this script; installing: not finished; <requirements file>: the stamp of what is installed

say() { printf 'run.sh: %s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

# The fingerprint of the requirements files and of the interpreter; fails where there is no working interpreter.
fingerprint() {
  "$python" -I -S -c '
import hashlib, sys
sha = hashlib.sha256(sys.version.encode())
for path in sys.argv[1:]:
    sha.update(open(path, "rb").read())
print(sha.hexdigest())' "$root/requirements.txt" "$root/$1" 2>/dev/null
}

# Whether everything in the requirements file $1 is installed.
installed() {
  local stamp
  [[ -x $python && -r $notes/$1 && ! -e $notes/installing ]] || return 1
  stamp=$(fingerprint "$1") && [[ $(<"$notes/$1") == "$stamp" ]]
}

# Prints the first Python that is new enough and can make environments.
find_python() {
  local candidate without_venv='' seen=''
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || {
      seen+=$("$candidate" -c 'import platform; print(" " + platform.python_version())' 2>/dev/null || true)
      continue
    }
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v -- "$candidate"
      return
    fi
    without_venv=${without_venv:-$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
  done
  [[ -z $without_venv ]] || fail "Python $without_venv cannot make virtual environments: its modules venv and ensurepip" \
    "are missing. On Debian and Ubuntu: sudo apt install python$without_venv-venv (or python3-venv); then start again."
  fail "Python 3.11 or newer is needed and was not found (found:${seen:- no Python at all})." \
    "Install it, or put it on PATH as python3, and start again."
}

# Makes the environment, anew where an earlier installation was cut short; never clears a folder that it did not make.
make_environment() {
  local base
  if [[ -e $notes/made ]] && { [[ -e $notes/installing ]] || ! "$python" -m pip --version >/dev/null 2>&1; }; then
    say "the environment in $venv is incomplete: making it anew"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .cofactor -exec rm -rf -- {} +
    rm -f -- "$notes"/requirements*.txt
  elif "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    return
  elif [[ -d $venv && -n $(ls -A -- "$venv") ]]; then
    fail "$venv exists, but holds no working Python 3.11 or newer with pip. Remove it, or set COFACTOR_VENV to another place."
  fi
  base=$(find_python)
  say "making an environment in $venv with $base"
  mkdir -p -- "$notes"
  touch -- "$notes/made"
  "$base" -m venv "$venv" >&2 || fail "could not make the environment in $venv (see above)."
}

# Installs the requirements file $1 unless it is installed already; one process at a time.
prepare() {
  installed "$1" && return
  mkdir -p -- "$(dirname -- "$venv")"
  if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock -n 9 || {
      say "waiting for another start that is installing into $venv"
      flock 9
    }
    installed "$1" && { exec 9>&- && return; }
  fi
  make_environment
  say "installing $1 (once; torch alone can be several hundred megabytes)"
  mkdir -p -- "$notes"
  touch -- "$notes/installing"
  PIP_USER=0 "$python" -m pip install --disable-pip-version-check --no-input -r "$root/$1" >&2 ||
    fail "pip could not install $1 (see above). Nothing is marked as installed; start again when it is mended."
  "$python" -m pip check >&2 || fail "the installed packages contradict each other (see above)."
  fingerprint requirements.txt >"$notes/requirements.txt"
  [[ $1 == requirements.txt ]] || fingerprint "$1" >"$notes/$1"
  rm -f -- "$notes/installing"
  exec 9>&-
}

unset PYTHONHOME
cd -- "$root" # results, and all relative paths in arguments, belong to this folder wherever the call comes from
if [[ ${1:-} == test ]]; then
  shift
  prepare requirements-dev.txt
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  exec "$python" -m pytest -n 2 "$@"
fi
if [[ ${1:-} == install ]]; then
  [[ $# == 2 && $2 == envs ]] || fail "'./run.sh install envs' is all there is to install; the rest comes by itself."
  prepare requirements-envs.txt
  say "installed: requirements-envs.txt"
  exit
fi
prepare requirements.txt
COFACTOR_STARTED_AS=./run.sh exec "$python" src/main.py "$@"
