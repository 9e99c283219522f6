"""The page on failures and the tests that it names say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/failures.md"
KNOWN = {f"F{number}" for number in (*range(1, 48), *range(57, 63))}

NUMBER = re.compile(r"\bF\d+\b")


def rows() -> dict[str, set[str]]:
    """Return the tests that the page names, by number."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if NUMBER.fullmatch(cells[0]):
            found[cells[0]] = set(re.findall(r"`(test_\w+)`", cells[-1]))
    return found


def claims() -> Iterator[tuple[str, str]]:
    """Yield each number that a test says it is about, with the name of the test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("test_"):
                about, _, _ = (ast.get_docstring(node) or "").partition(":")
                for number in NUMBER.findall(about):
                    yield number, node.name


def test_the_page_has_a_row_for_each_failure_that_we_can_have() -> None:
    assert set(rows()) == KNOWN


def test_each_row_names_exactly_the_tests_that_are_about_it() -> None:
    said: dict[str, set[str]] = {number: set() for number in KNOWN}
    for number, name in claims():
        said.setdefault(number, set()).add(name)
    assert rows() == said
