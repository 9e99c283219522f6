#!/usr/bin/env bash
# Build the JupyterLab extension and link it into .venv; quick when nothing changed.
source "$(dirname "$0")/lib.sh"
has_node || exit 1

cd labextension
dependencies=$(sha256sum <package-lock.json)
if [ "$(cat node_modules/.installed 2>/dev/null)" != "$dependencies" ]; then
  say "installing what the JupyterLab extension is built with (half a minute)"
  npm ci --silent
  echo "$dependencies" >node_modules/.installed
fi
now=$(cat package.json package-lock.json tsconfig.json src/* | sha256sum)
if [ ! -e dist/package.json ] || [ "$(cat lib/.built 2>/dev/null)" != "$now" ]; then
  npm run --silent build >&2
  echo "$now" >lib/.built
fi
cd ..

linked=.venv/share/jupyter/labextensions
mkdir -p "$linked"
ln -sfn "$PWD/labextension/dist" "$linked/backendai-jupyter"
