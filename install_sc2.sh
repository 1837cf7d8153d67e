#!/usr/bin/env bash
# StarCraft II 4.10 for Linux and the maps of SMAC and SMACv2.
#
#   ./install_sc2.sh                     installs what is missing, after asking whether you accept Blizzard's licence
#   ./install_sc2.sh --accept-licence    the same without asking: you have read the licence and accept it
#   ./install_sc2.sh --check             says what is here and what is missing; changes nothing
#
#   --dest DIR       where the game is, or shall be (default: SC2PATH, or else ~/StarCraftII)
#   --archive FILE   use this SC2.4.10.zip instead of downloading it; it is kept
#   --sha256 HEX     the archive's checksum, if Blizzard ever publishes another file under the same name
#
# What was cut short is continued when it is started again; what is here is not fetched twice.
# COFACTOR_SC2_URL, COFACTOR_MAPS_URL  other places of the two archives, such as a mirror of your own; the checksums stay
# COFACTOR_MAPS_SHA256                 the checksum of other maps
# Exit status: 0 everything is here (but for Python packages, only --check insists on them), 1 something is missing or
# has failed, 2 wrong arguments.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
python=${COFACTOR_VENV:-$root/.venv}/bin/python
build=75689 # what 4.10 calls itself
licence=https://blzdistsc2-a.akamaihd.net/AI_AND_MACHINE_LEARNING_LICENSE.html
archive_url=${COFACTOR_SC2_URL:-https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip}
# Blizzard publishes no checksum. This one stands in two public places that do not depend on each other: nixpkgs (package
# sc2-headless 4.10) and github.com/Harimus/SpinningUpPySc2.
archive_sha256=1052f249f30a242bf5e17cc3315324919f9689307ca6dbcdb30bb41ea3004884
# The password is public: https://github.com/Blizzard/s2client-proto, where typing it is how one accepts the licence.
password=iagreetotheeula
assumed_bytes=$((5 * 10 ** 9)) # of the archive, where the server does not say
# One archive at one commit of SMACv2's repository; its 23 SMAC maps are those of SMAC's own repository, byte for byte.
maps_url=https://raw.githubusercontent.com/oxwhirl/smacv2/577ab5a2cff2391f8df582da5731ea9cd6adf3c6
maps_url=${COFACTOR_MAPS_URL:-$maps_url/smacv2/env/starcraft2/maps/SMAC_Maps/SMAC_Maps.zip}
maps_sha256=${COFACTOR_MAPS_SHA256:-e507cc53b49f0ac334732d62628a42e0be2c53e9df29eeeaf608bb861a2a76cd}
maps=(
  3m 8m 25m 5m_vs_6m 8m_vs_9m 10m_vs_11m 27m_vs_30m MMM MMM2 2s3z 3s5z 3s5z_vs_3s6z 3s_vs_3z 3s_vs_4z 3s_vs_5z 1c3s5z
  2m_vs_1z corridor 6h_vs_8z 2s_vs_1sc so_many_baneling bane_vs_bane 2c_vs_64zg
  32x32_flat # all of SMACv2's battles
)

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "install_sc2.sh: error: $*"
  exit 1
}
usage() { # the comment at the top of this file
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}
wrong() {
  say "install_sc2.sh: $*"
  usage >&2
  exit 2
}
gb() { awk -v bytes="$1" 'BEGIN { printf "%.1f GB", bytes / 1e9 }'; }

# --- what is here -----------------------------------------------------------------------------------------------------

missing_maps() {
  local name
  for name in "${maps[@]}"; do
    [[ -s $dest/Maps/SMAC_Maps/$name.SC2Map ]] || printf '%s ' "$name"
  done
}

have() { printf '  here     %s\n' "$*"; }
lack() {
  printf '  missing  %s\n' "$*"
  lacking=1
}

# Says what is here; fails where something lacks.
check() {
  lacking=0
  printf 'StarCraft II at %s\n' "$dest"
  check_game
  check_maps
  check_package
  if [[ $dest != "$HOME/StarCraftII" && ${SC2PATH:-} != "$dest" ]]; then
    printf 'Tell where it is, for instance in ~/.profile:  export SC2PATH=%q\n' "$dest"
  fi
  return "$lacking"
}

check_game() {
  local versions
  versions=$(find "$dest/Versions" -mindepth 1 -maxdepth 1 -name 'Base*' -printf '%f ' 2>/dev/null || true)
  if [[ -x $binary ]]; then
    have "version 4.10: $binary"
  elif [[ -e $binary ]]; then
    lack "permission to execute $binary: chmod +x it; if it has that, its file system is mounted noexec: use another --dest"
  else
    lack "version 4.10: no $binary${versions:+ (found: ${versions% })}. Remedy: ./install_sc2.sh"
  fi
}

check_maps() {
  local names
  names=$(missing_maps)
  if [[ -z $names ]]; then
    have "maps: all of SMAC's and SMACv2's, in $dest/Maps/SMAC_Maps"
  else
    lack "SMAC maps in $dest/Maps/SMAC_Maps: ${names% }. Remedy: ./install_sc2.sh"
  fi
}

check_package() {
  if "$python" -c 'import smac.env.starcraft2' >/dev/null 2>&1; then
    have "Python package smac"
  elif "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("smac") is None)' >/dev/null 2>&1; then
    lack "Python package smac: the one in the environment of $python is another project of that name, or cannot be" \
      "imported. Remedy: '$python' -m pip uninstall smac, then ./run.sh install sc2"
  else
    lack "Python package smac, in the environment of $python. Remedy: ./run.sh install sc2"
  fi
}

# --- fetching ---------------------------------------------------------------------------------------------------------

bytes_of() { if [[ -e $1 ]]; then stat -c %s -- "$1"; else echo 0; fi; }

# How large the file at URL $1 is; nothing where the server does not say.
remote_bytes() {
  { if command -v curl >/dev/null; then
    curl --silent --fail --head --location --connect-timeout 30 --max-time 60 "$1"
  else
    wget --spider --server-response --tries=1 --timeout=30 "$1" 2>&1
  fi || true; } | tr -d '\r' | awk 'tolower($1) == "content-length:" { bytes = $2 } END { if (bytes) print bytes }'
}

# One attempt to fetch URL $1 into file $2, going on where the file ends.
fetch() {
  local quiet=()
  if command -v curl >/dev/null; then
    [[ -t 2 ]] && quiet=(--progress-bar) || quiet=(--silent --show-error)
    curl "${quiet[@]}" --fail --location --continue-at - --connect-timeout 30 --speed-limit 1024 --speed-time 60 \
      --output "$2" "$1" >&2
  else
    [[ -t 2 ]] || quiet=(--no-verbose)
    wget "${quiet[@]}" --continue --tries=1 --timeout=60 --output-document="$2" "$1" >&2
  fi
}

# Fetches URL $1 into file $2; $3 is its size where that is known. Gives up after 5 attempts of which only the first brought anything.
download() {
  local tries=0 status before
  command -v curl >/dev/null || command -v wget >/dev/null || fail "neither curl nor wget is here: install one of them"
  until [[ -n $3 && $(bytes_of "$2") == "$3" ]]; do
    before=$(bytes_of "$2") status=0
    fetch "$1" "$2" || status=$?
    ((status)) || return 0
    # 33: this server cannot continue (curl). What is longer than the original cannot be its beginning either.
    if ((status == 33)) || [[ -n $3 && $(bytes_of "$2") -gt $3 ]]; then rm -f -- "$2"; fi
    if (($(bytes_of "$2") > before)); then tries=0; fi
    ((++tries < 5)) || fail "could not download $1. What has arrived is kept; start again to go on."
    say "the download broke off at $(bytes_of "$2") bytes: trying again"
    sleep $((2 * tries))
  done
}

# Fails unless file $1 has the checksum $2. What we have downloaded ourselves is removed then, so that it is fetched anew.
verify() {
  local found
  say "comparing the checksum of $(basename -- "$1")"
  found=$(sha256sum -- "$1" | cut -d ' ' -f 1)
  [[ $found != "$2" ]] || return 0
  [[ $1 != "$work"/* ]] || rm -f -- "$1"
  fail "$(basename -- "$1") has the checksum $found instead of $2: it is damaged, or not the published file." \
    "Start again to download it anew. If a new file was published on purpose, give its checksum by --sha256."
}

# Fails unless the disk of $dest has room for $1 more bytes.
need_room() {
  local free
  free=$(($(df -Pk -- "$work" | awk 'NR == 2 { print $4 }') * 1024))
  ((free >= $1)) ||
    fail "$dest needs $(gb "$1") more, and its disk has $(gb "$free") left. Make room, or choose another place by --dest."
}

# --- installing -------------------------------------------------------------------------------------------------------

accept_licence() {
  local answer=''
  say "StarCraft II is Blizzard's, and no part of Cofactor. Its AI and Machine Learning Licence has to be accepted:"
  say "  $licence"
  if ((accepted)); then
    say "accepted by --accept-licence"
    return
  fi
  [[ -t 0 ]] || fail "there is nobody to ask. If you have read the licence and accept it, add --accept-licence."
  read -r -p "Do you accept it? Type yes or no: " answer || true
  [[ $answer == yes ]] || fail "the licence was not accepted: nothing was installed."
}

# A folder of something else must not be filled with the game.
claim_place() {
  local strange
  strange=$(find "$dest" -mindepth 1 -maxdepth 1 ! -name Maps ! -name .cofactor ! -name lost+found -print -quit 2>/dev/null || true)
  if [[ -n $strange && ! -d $dest/Versions && ! -d $work ]]; then
    fail "$dest holds something else ($(basename -- "$strange")). Choose an empty or a new folder by --dest."
  fi
  mkdir -p -- "$work" 2>/dev/null || fail "cannot write to $dest. Choose another place by --dest."
  command -v unzip >/dev/null || fail "unzip is missing. On Debian and Ubuntu: sudo apt install unzip"
  if command -v flock >/dev/null; then
    exec 9>"$work/lock"
    flock -n 9 || fail "another ./install_sc2.sh is at work in $dest"
  fi
}

install_game() {
  local zip=$archive size
  accept_licence
  claim_place
  if [[ -z $zip ]]; then
    zip=$work/SC2.4.10.zip
    size=$(remote_bytes "$archive_url")
    need_room $((${size:-$assumed_bytes} * 5 / 2 - $(bytes_of "$zip"))) # the archive, and what is in it
    say "downloading $archive_url${size:+ ($(gb "$size"))}"
    download "$archive_url" "$zip" "$size"
  fi
  verify "$zip" "$archive_sha256"
  need_room "$(unzip -Zt "$zip" | awk '{ print $3 }')"
  unpack_game "$zip"
}

# The binary comes last: where it is, everything is.
unpack_game() {
  local entry new=$work/unpacked
  rm -rf -- "$new"
  say "unpacking"
  # Info-ZIP stumbles over the empty entries of that cache (known from nixpkgs); nobody needs them.
  unzip -q -P "$password" -d "$new" "$1" -x 'StarCraftII/Battle.net/Cache/TMP/*' >&2 || fail "unzip failed (see above)."
  [[ -f $new/StarCraftII/Versions/Base$build/SC2_x64 ]] || fail "$1 does not hold version 4.10 (Base$build)"
  mv -- "$new/StarCraftII/Versions/Base$build/SC2_x64" "$work/SC2_x64"
  for entry in "$new"/StarCraftII/*; do
    if [[ -e $dest/$(basename -- "$entry") ]]; then
      cp -af -- "$entry" "$dest/"
      rm -rf -- "$entry"
    else
      mv -- "$entry" "$dest/"
    fi
  done
  chmod +x -- "$work/SC2_x64"
  mv -f -- "$work/SC2_x64" "$binary"
}

install_maps() {
  claim_place
  say "downloading the maps of SMAC and SMACv2: $maps_url"
  download "$maps_url" "$work/SMAC_Maps.zip" "$(remote_bytes "$maps_url")"
  verify "$work/SMAC_Maps.zip" "$maps_sha256"
  mkdir -p -- "$dest/Maps/SMAC_Maps"
  # Maps that are here already stay as they are.
  unzip -qnj -d "$dest/Maps/SMAC_Maps" "$work/SMAC_Maps.zip" '*.SC2Map' >&2 || fail "unzip failed (see above)."
}

install() {
  [[ $(uname -sm) == 'Linux x86_64' ]] ||
    fail "Blizzard has this package for Linux on x86_64 only, not for $(uname -sm). See https://github.com/Blizzard/s2client-proto"
  if [[ ! -e $binary ]]; then
    install_game
  elif [[ ! -x $binary ]]; then
    chmod +x -- "$binary" || true
  fi
  [[ -z $(missing_maps) ]] || install_maps
  rm -rf -- "$work"
  check || [[ -x $binary && -z $(missing_maps) ]] # the Python package is not this script's business
}

accepted=0 action=install archive='' dest=${SC2PATH:-$HOME/StarCraftII}
while (($#)); do
  if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
  case $1 in
    --accept-licence | --accept-license) accepted=1 ;;
    --check) action=check ;;
    -h | --help) action=usage ;;
    --dest | --archive | --sha256)
      (($# > 1)) && [[ -n $2 ]] || wrong "$1 needs a value"
      case $1 in
        --dest) dest=$2 ;;
        --archive) archive=$2 ;;
        --sha256) archive_sha256=${2,,} ;;
      esac
      shift
      ;;
    *) wrong "unknown word '$1'" ;;
  esac
  shift
done
[[ $archive_sha256 =~ ^[0-9a-f]{64}$ ]] || wrong "--sha256 is 64 hexadecimal digits"
[[ -z $archive || -r $archive ]] || wrong "--archive: there is no readable $archive"
[[ $dest == /* ]] || dest=$PWD/$dest
dest=${dest%/}
binary=$dest/Versions/Base$build/SC2_x64
work=$dest/.cofactor
"$action"
