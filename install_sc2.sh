#!/usr/bin/env bash
# StarCraft II for Cofactor: says what will be needed, where, and what of it is here. It downloads nothing.
#
#   ./install_sc2.sh          what to install, and then the check
#   ./install_sc2.sh --check  only the check
#
# Exit status: 0 everything is here, 1 something is missing, 2 wrong argument.
set -euo pipefail

sc2=${SC2PATH:-$HOME/StarCraftII}
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
python=${COFACTOR_VENV:-$root/.venv}/bin/python
build=75689 # what 4.10 calls itself
missing=0

explain() {
  cat <<TEXT
Cofactor does not drive StarCraft II yet: --env-config=sc2 plays on the built-in skirmish engine, with or without the game.
What the StarCraft II engine will need, for whoever wants to have it ready:

  1. StarCraft II 4.10 for Linux (build $build). It is Blizzard's and no part of Cofactor:
     https://github.com/Blizzard/s2client-proto, section "Linux Packages".
     Unpacking it means accepting the AI and Machine Learning Licence that is linked there; several gigabytes.
     Other versions play differently: do not compare results across versions.
  2. Tell where it lies:  export SC2PATH=/path/to/StarCraftII   (default: ~/StarCraftII)
  3. SMAC from its public repository, https://github.com/oxwhirl/smac : its folder of maps, smac/env/starcraft2/maps/SMAC_Maps,
     goes to \$SC2PATH/Maps/SMAC_Maps, and its Python package into Cofactor's environment.
     The package index has an unrelated project under the name "smac"; that one does not help.

TEXT
}

have() { printf '  here     %s\n' "$*"; }
lack() {
  printf '  missing  %s\n' "$*"
  missing=1
}

check() {
  local binary=$sc2/Versions/Base$build/SC2_x64 versions maps
  printf 'StarCraft II at SC2PATH=%s\n' "$sc2"
  versions=$(find "$sc2/Versions" -mindepth 1 -maxdepth 1 -name 'Base*' -printf '%f ' 2>/dev/null || true)
  if [[ -x $binary ]]; then
    have "version 4.10: $binary"
  elif [[ -e $binary ]]; then
    lack "permission to execute $binary: chmod +x it"
  else
    lack "version 4.10: no $binary${versions:+ (found: ${versions% })}"
  fi
  maps=$({ find "$sc2/Maps/SMAC_Maps" -name '*.SC2Map' 2>/dev/null || true; } | wc -l)
  if ((maps)); then have "SMAC maps: $maps"; else lack "SMAC maps: no *.SC2Map in $sc2/Maps/SMAC_Maps"; fi
  if "$python" -c 'import smac.env.starcraft2.starcraft2' >/dev/null 2>&1; then
    have "Python package smac"
  else
    lack "Python package smac (with pysc2), in the environment of $python"
  fi
}

case "$#:${1:-}" in
  0:) explain && check ;;
  1:--check) check ;;
  1:-h | 1:--help) explain ;;
  *)
    printf 'usage: ./install_sc2.sh [--check]\n' >&2
    exit 2
    ;;
esac
exit "$missing"
