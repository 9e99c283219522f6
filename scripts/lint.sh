#!/usr/bin/env bash
# Every check that runs nothing of ours: style, types, who imports whom, spelling.
source "$(dirname "$0")/lib.sh"

scripts/venv.sh test,dev
if has_node; then
  scripts/labextension.sh # which has tsc check the types
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-cache
.venv/bin/codespell --toml pyproject.toml
