#!/usr/bin/env bash
# Make .venv and install this tree in it.  Usage: venv.sh [EXTRA,EXTRA]; quick when nothing changed.
source "$(dirname "$0")/lib.sh"
extras=${1:-}
python=${PYTHON:-python3}

# What an installation depends on: what is declared, what is copied, and where the tree stands.
fingerprint() {
  { pwd && cat pyproject.toml && find kernelspecs jupyter-config -type f | sort | xargs cat; } | sha256sum
}

make_venv() {
  command -v "$python" >/dev/null || need "$python=python3" || exit 1
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old; Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    may_apt || die "$python cannot make virtual environments; to have it: sudo apt-get install python3-venv"
    apt_get python3-venv
  fi
  rm -rf .venv
  "$python" -m venv .venv
}

now=$(fingerprint)
stamp=.venv/.installed${extras:+-$extras}
if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
  # A half-made or moved environment is made again: its scripts hold the old path.
  .venv/bin/pip --version >/dev/null 2>&1 || make_venv
  say "installing backendai_jupyter${extras:+[$extras]} in .venv (the first time takes a few minutes)"
  .venv/bin/pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
  echo "$now" >.venv/.installed # the extras add to it
  echo "$now" >"$stamp"
fi
