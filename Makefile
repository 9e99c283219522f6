# Two commands for everybody:      make lab    set everything up and start JupyterLab
#                                  make test   set everything up and run every check and test
# Extra arguments: make lab LAB_ARGS="--no-browser --port 9999", make test TEST_ARGS="tests/unit -x"

PYTHON ?= python3
LAB_ARGS ?=
TEST_ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help lab test lint check format wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

lab: ## set everything up and start JupyterLab
	@exec scripts/lab.sh $(LAB_ARGS)

test: ## set everything up and run every check and test
	@exec scripts/test.sh $(TEST_ARGS)

lint: ## style, types, imports and spelling; no test
	@exec scripts/lint.sh

check: lint ## the same as lint

format: ## let ruff rewrite what it can
	@scripts/venv.sh test,dev
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

wheel: ## build the sdist, and from it the wheel, into dist/
	@scripts/venv.sh test,dev
	@scripts/labextension.sh
	.venv/bin/python -m build

clean: ## remove everything that make has made here
	rm -rf labextension/dist labextension/lib labextension/node_modules
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find backendai_jupyter tests -name __pycache__ -prune -exec rm -rf {} +
