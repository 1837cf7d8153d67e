#!/usr/bin/env bash
# Cofactor's one entry: prepares a private Python environment when it is missing or out of date, then runs.
#
#   ./run.sh --config=macpf --env-config=sc2 with env_args.map_name=corridor    everything after run.sh goes to src/main.py
#   ./run.sh test [pytest arguments]                                            the test suite (quick part by default)
#   ./run.sh install envs sc2                                                   installs extras, by the names of
#                                                                               requirements-*.txt, and starts nothing
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

# The fingerprint of requirements.txt, $1, what they include, and the interpreter; fails without a working interpreter.
fingerprint() {
  "$python" -I -S -c '
import hashlib, os, sys
sha = hashlib.sha256(sys.version.encode())
def add(path):
    lines = open(path, "rb").read()
    sha.update(lines)
    for line in lines.decode().splitlines():
        if line.startswith("-r "):
            add(os.path.join(os.path.dirname(path), line[3:].strip()))
for path in sys.argv[1:]:
    add(path)
print(sha.hexdigest())' "$root/requirements.txt" "$root/$1" 2>/dev/null
}

# Whether everything in the requirements file $1 is installed.
installed() {
  local stamp
  [[ -x $python && -r $notes/$1 && ! -e $notes/installing ]] || return 1
  stamp=$(fingerprint "$1") && [[ $(<"$notes/$1") == "$stamp" ]]
}

# Whether the requirements file $1 comes on top of requirements.txt, as opposed to including it: such packages ask for others
# that must not be had, so they are installed without what they ask for, and pip's complaints about them are none.
on_top() { [[ $1 != requirements.txt ]] && ! grep -qx -- '-r requirements.txt' "$root/$1"; }

# Fails, and says it, where installed packages contradict each other.
consistent() {
  local file found meant=none
  found=$("$python" -m pip check 2>&1) && return
  for file in "$root"/requirements-*.txt; do
    if on_top "$(basename -- "$file")"; then meant+=$(sed -nE 's/^([A-Za-z0-9._-]+)( @|==).*/|\1/p' "$file" | tr -d '\n'); fi
  done
  ! grep -Eiv "^($meant) " <<<"$found" >&2
}

# The names that './run.sh install' knows.
extras() {
  local file
  for file in "$root"/requirements-*.txt; do
    file=${file##*/requirements-}
    [[ $file == dev.txt ]] || printf '%s ' "${file%.txt}"
  done
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
  local option=''
  installed "$1" && return
  if on_top "$1"; then
    prepare requirements.txt
    option=--no-deps
  fi
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
  # What comes on top changes nothing else: where it fails, the rest is as good as before.
  [[ -n $option ]] || touch -- "$notes/installing"
  PIP_USER=0 "$python" -m pip install --disable-pip-version-check --no-input ${option:+"$option"} -r "$root/$1" >&2 ||
    fail "pip could not install $1 (see above). Nothing is marked as installed; start again when it is mended."
  consistent || fail "the installed packages contradict each other (see above)."
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
  prepare requirements-pysc2.txt
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  exec "$python" -m pytest -n 2 "$@"
fi
if [[ ${1:-} == install ]]; then
  shift
  for name in "$@"; do
    [[ " $(extras)" == *" $name "* ]] || fail "'./run.sh install NAME ...' knows these names: $(extras)"
  done
  (($#)) || prepare requirements.txt
  for name in "$@"; do
    prepare "requirements-$name.txt"
  done
  say "installed: ${*:-requirements.txt}"
  exit
fi
prepare requirements.txt
COFACTOR_STARTED_AS=./run.sh exec "$python" src/main.py "$@"
