#!/usr/bin/env bash
# Set everything up and become JupyterLab.  Arguments go to `jupyter lab`.
source "$(dirname "$0")/lib.sh"

scripts/venv.sh
scripts/labextension.sh ||
  say "without the JupyterLab extension, output may come twice after a connection was lost"
need bwrap=bubblewrap || say "without bubblewrap, kernels that run outside Docker are plain, unsandboxed processes"

if is_root; then
  set -- --allow-root "$@"
fi
exec .venv/bin/jupyter lab "$@"
