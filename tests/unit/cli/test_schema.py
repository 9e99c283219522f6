"""``schema``: shown, migrated, taken back after a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backendai_jupyter.cli.schema import schema
from backendai_jupyter.store.migrate import REVISIONS


@pytest.fixture
def path(short_tmp_path: Path, _own_home: None) -> Path:
    """Where the database is that the config file names."""
    path = short_tmp_path / "db.sqlite"
    config = short_tmp_path / "config" / "jupyter_server_config.py"
    config.parent.mkdir()
    config.write_text(f"c.BackendAI.database_url = 'sqlite+aiosqlite:///{path}'\n")
    return path


def invoke(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(schema, arguments, input=answer)


def version(arguments: Sequence[str] = ("show", "--json")) -> str | None:
    found: str | None = json.loads(invoke(*arguments).output)["version"]
    return found


def test_up_and_down(path: Path) -> None:
    assert f"{path} is empty" in invoke("show").output
    assert f"{path} has schema version {REVISIONS[-1]};" in invoke("upgrade").output
    assert version() == REVISIONS[-1]
    assert invoke("downgrade", "0001", "--yes").exit_code == 0
    assert version() == "0001"


def test_nothing_is_taken_back_without_a_yes(path: Path) -> None:
    invoke("upgrade")
    assert invoke("downgrade", "base", answer="n\n").exit_code == 1
    assert version() == REVISIONS[-1]
    assert invoke("downgrade", "base", answer="y\n").exit_code == 0
    assert version() is None


def test_a_version_that_does_not_exist_is_asked_wrongly(path: Path) -> None:
    asked = invoke("downgrade", "0099", "--yes")
    assert asked.exit_code == 2
    assert "0001" in asked.output
