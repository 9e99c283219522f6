# Sourced by the other scripts: say something, and get Debian packages where we may.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin # a plain user's PATH on Debian lacks dockerd and debootstrap
PATH=$PATH$(printf ':%s' /usr/lib/postgresql/*/bin) # and everybody's lacks initdb

say() { printf '==> %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}
is_root() { [ "$(id -u)" -eq 0 ]; }
may_apt() { is_root && command -v apt-get >/dev/null; }

# apt_get PACKAGE...: install from the package lists at hand, from fresh ones if that fails
apt_get() {
  say "installing Debian packages: $*"
  local install=(apt-get install -y -q --no-install-recommends "$@")
  export DEBIAN_FRONTEND=noninteractive
  if ! "${install[@]}" >/dev/null 2>&1; then
    apt-get update -q >/dev/null
    "${install[@]}" >/dev/null
  fi
}

# has_node: whether Node.js is as recent as labextension/package.json wants it, else say so
has_node() {
  command -v npm >/dev/null && node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    const enough = { 20: 19, 22: 12 }[major] ?? (major > 22 ? 0 : Infinity);
    process.exit(minor >= enough ? 0 : 1)' && return
  say "missing here, for the JupyterLab extension: Node.js 20.19 or later (https://nodejs.org)"
  return 1
}

# need COMMAND=PACKAGE...: have every command, else print how to get it; fails where one is missing
need() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if may_apt; then
    apt_get "${missing[@]}"
  else
    say "missing here; to have it: sudo apt-get install ${missing[*]}"
    return 1
  fi
}
