"""The shape of the tree: what a reader may rely on in every file, kept by tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES, CLASS_LINES, FUNCTION_LINES = 400, 300, 50

# Directories that are one machine's own; ours inside kernels is /home/work, which is another.
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:work|root|farm)/")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


CODE = python_files("backendai_jupyter", "tests")
PACKAGE = python_files("backendai_jupyter")
TESTS = [path for path in python_files("tests") if path != ROOT / "tests/helpers.py"]


def test_no_file_is_longer_than_a_reader_likes() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in CODE}
    assert over(FILE_LINES, lengths) == {}


def test_no_class_is_longer_than_a_reader_likes() -> None:
    assert over(CLASS_LINES, lengths_of(ast.ClassDef)) == {}


def test_no_function_is_longer_than_a_reader_likes() -> None:
    functions = lengths_of(ast.FunctionDef) | lengths_of(ast.AsyncFunctionDef)
    assert over(FUNCTION_LINES, functions) == {}


def test_every_file_begins_with_a_sentence_that_says_what_it_is_for() -> None:
    silent = [name(path) for path in CODE if (text := path.read_text()) and not introduced(text)]
    assert silent == []


def test_only_the_supervisor_starts_background_tasks() -> None:
    starters = {"create_task", "ensure_future", "TaskGroup"}
    found = {
        at(path, call)
        for path in PACKAGE
        if path.name != "supervisor.py"
        for call in calls(path)
        if called(call).rpartition(".")[2] in starters
    }
    assert found == set()


def test_every_transaction_of_the_store_is_tried_again_when_it_gives_way() -> None:
    found = {
        at(path, node)
        for path in python_files("backendai_jupyter/store")
        for node in nodes(path)
        if isinstance(node, ast.AsyncFunctionDef) and path.name != "engine.py"
        if "_database.write" in ast.unparse(node)
        if "retried" not in [ast.unparse(decorator) for decorator in node.decorator_list]
    }
    assert found == set()


def test_no_test_sleeps_instead_of_waiting_for_what_it_needs() -> None:
    sleeps = {"sleep", "time.sleep", "asyncio.sleep"}
    found = {at(path, call) for path in TESTS for call in calls(path) if called(call) in sleeps}
    assert found == set()


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_imports_point_down() -> None:
    # In a process of its own: it configures logging, and mutes the loggers that there are.
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    program = "import sys, json, backendai_jupyter; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    loaded = [module for module in json.loads(printed) if module.startswith("backendai_jupyter")]
    assert loaded == ["backendai_jupyter"]


@pytest.mark.parametrize(("ci", "outcome"), [("true", "failed"), ("", "skipped")])
def test_a_skip_fails_where_ci_is_set_and_only_there(
    ci: str, outcome: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("import pytest\n\ndef test_skipped():\n    pytest.skip('no engine')\n")
    result = pytester.runpytest_subprocess("-p", "tests.no_skips", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == {outcome: 1}


def lengths_of(kind: type[Definition]) -> dict[str, int]:
    """Return the length in lines of every definition of this kind, decorators not counted."""
    return {
        f"{at(path, node)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in CODE
        for node in nodes(path)
        if isinstance(node, kind)
    }


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def over(limit: int, lengths: dict[str, int]) -> dict[str, int]:
    return {where: length for where, length in lengths.items() if length > limit}


def introduced(text: str) -> bool:
    """Whether the first line holds a docstring's first sentence, or the start of it."""
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return text.startswith('"""') and docstring[:1].strip() != "" and "." in docstring


def calls(path: Path) -> Iterator[ast.Call]:
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield node


def called(call: ast.Call) -> str:
    """Return the dotted name of what is called: ``asyncio.sleep``."""
    return ast.unparse(call.func)


def tracked_texts() -> Iterator[Path]:
    """Yield the text files that git has, or would take with the next ``git add``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for path in (ROOT / relative for relative in listed.split("\0") if relative):
        if path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            yield path


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def at(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{name(path)}:{node.lineno}"
