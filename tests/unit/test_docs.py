"""The documentation says what the code does: tables, names, links, sample notebooks."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest

from backendai_jupyter.agent.accelerators.exposure import VARIABLES
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.domain.options import ENVIRONMENT, Options
from backendai_jupyter.manager.reconciler import assignment_of
from tests.records import make_session

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "backendai_jupyter"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
DECISIONS = sorted((DOCS / "explanation/decisions").glob("[0-9]*.md"))
EXAMPLES = sorted((DOCS / "examples").glob("*.ipynb"))
MAX_DATA_BYTES = 50_000
MAX_DECISION_WORDS = 350  # half a page

CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
NAME = re.compile(r"`([\w./]+)`")
FOREIGN = {"HBChannel"}  # classes of others that pages name


def test_every_generated_table_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0), f"run docs/generate.py\n{done.stderr}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = LINK.findall(CODE_BLOCK.sub("", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_page_can_be_found_from_the_first(page: Path) -> None:
    listed = {
        (index.parent / f"{entry}.md").resolve()
        for index in DOCS.rglob("index.md")
        for tree in re.findall(r"```\{toctree\}(.*?)```", index.read_text(), re.DOTALL)
        for entry in tree.split()
    }
    assert page == DOCS / "index.md" or page.resolve() in listed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_class_and_method_that_a_page_names_is_there(page: Path) -> None:
    assert [name for name in names_in(page) if not is_there(name)] == []


def test_every_function_that_the_architecture_names_is_there() -> None:
    text = CODE_BLOCK.sub("", (DOCS / "explanation/architecture.md").read_text())
    named = {name for name in NAME.findall(text) if re.fullmatch(r"[a-z]+_[a-z_]+", name)}
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {name for name in named if not re.search(rf"\b{name}\b", code)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_a_page_names_is_there(page: Path) -> None:
    sections = {section.__name__: section for section in (BackendAI, BackendAIAgent)}
    named = re.findall(r"\b(BackendAI|BackendAIAgent)\.(\w+)", page.read_text())
    unknown = [
        f"{section}.{name}"
        for section, name in named
        if name not in sections[section].class_trait_names(config=True)
    ]
    assert unknown == []


def test_the_walk_through_a_start_names_each_file_on_the_path() -> None:
    path = [
        "provisioning/provisioner.py",
        "provisioning/backends.py",
        "provisioning/backend.py",
        "manager/sessions.py",
        "manager/scheduler/scheduler.py",
        "manager/scheduler/admission.py",
        "manager/scheduler/placement.py",
        "store/sessions.py",
        "manager/reconciler.py",
        "cluster/memory.py",
        "agent/agent.py",
        "agent/worker.py",
        "agent/launch.py",
        "agent/runtime/docker.py",
        "agent/runtime/process.py",
        "agent/relay/channels.py",
        "manager/observer.py",
        "manager/board.py",
    ]
    text = (DOCS / "explanation/architecture.md").read_text()
    walk = text.partition("## A start, file by file")[2].partition("\n## ")[0]
    assert [file for file in path if f"`{file}`" not in walk] == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda p: p.stem)
def test_a_decision_has_its_three_parts_on_half_a_page(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem[:3]}: ")
    assert all(
        part in text for part in ("**Context.**", "**Choice.**", "What would change our mind")
    )
    assert len(text.split()) <= MAX_DECISION_WORDS


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(page.name[:3]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_the_environment_page_lists_the_variables_that_there_are() -> None:
    text = (DOCS / "reference/environment.md").read_text()
    session = make_session()
    in_kernels = set(assignment_of(session, session.main).env)
    reserved = {f"BACKENDAI_{name}" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")}
    documented = set(re.findall(r"`(BACKENDAI_[A-Z_]+)`", text)) - {"BACKENDAI_"}
    assert documented == in_kernels | set(VARIABLES) | set(ENVIRONMENT) | reserved


def test_the_page_on_resources_lists_the_fields_that_there_are() -> None:
    text = (DOCS / "howto/choose-resources.md").read_text()
    table = text.partition("## What you can write")[2].partition("\n\nA field")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [
        "resources",
        "preset",
        "shm",
        "mounts",
        "env",
        "cluster_size",
        "cluster_mode",
        "failure_policy",
        "startup",
        "resource_group",
        "priority",
        "not_before",
        "depends_on",
    ]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(Options.model_fields)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_a_sample_notebook_is_valid_empty_and_ours(path: Path) -> None:
    notebook = nbformat.reads(path.read_text(), as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ids = [cell["id"] for cell in notebook.cells]
    assert notebook.metadata["kernelspec"]["name"] == "backendai-python"
    assert len(set(ids)) == len(ids) > 0
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_a_sample_notebook_has_its_small_data_beside_it(path: Path) -> None:
    source = "".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    files = re.findall(r'read_csv\("([^"]+)"', source)
    assert files
    assert [file for file in files if (path.parent / file).stat().st_size > MAX_DATA_BYTES] == []


def names_in(page: Path) -> Iterator[str]:
    """Yield what stands in backticks and looks like a Python file of ours or ``Class.name``."""
    for name in NAME.findall(CODE_BLOCK.sub("", page.read_text())):
        is_file = name.endswith(".py") and not name.endswith("_config.py")
        if is_file or re.fullmatch(r"[A-Z]\w*[a-z]\w*\.(?!md$)\w+", name):
            yield name


def is_there(name: str) -> bool:
    if name.endswith(".py"):
        return any((root / name).exists() for root in (PACKAGE, ROOT)) or _is_unique(name)
    class_name, _, member = name.partition(".")
    return class_name in FOREIGN or member in members().get(class_name, ())


def _is_unique(name: str) -> bool:
    return len(list(PACKAGE.rglob(name))) == 1


@cache
def members() -> dict[str, set[str]]:
    """Return what each of our classes has, what it inherits from our own classes included."""
    classes: dict[str, ast.ClassDef] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node

    def all_of(node: ast.ClassDef) -> set[str]:
        bases = (classes.get(ast.unparse(base)) for base in node.bases)
        inherited = (all_of(base) for base in bases if base is not None and base is not node)
        return set(_members_of(node)).union(*inherited)

    return {name: all_of(node) for name, node in classes.items()}


def _members_of(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Assign):
            yield from (target.id for target in part.targets if isinstance(target, ast.Name))
