"""What the JupyterLab extension must have in common with the rest."""

from __future__ import annotations

import json
from pathlib import Path

from backendai_jupyter import __version__
from backendai_jupyter.web.window import LIMIT_BYTES

EXTENSION = Path(__file__).parents[2] / "labextension"


def test_it_has_our_version() -> None:
    for name in ("package.json", "package-lock.json"):
        assert json.loads((EXTENSION / name).read_text())["version"] == __version__


def test_it_remembers_twice_what_a_server_may_send_again() -> None:
    source = (EXTENSION / "src/had.ts").read_text()
    assert f"REMEMBERED_BYTES = 2 * ({LIMIT_BYTES >> 20} << 20);" in source


def test_its_lockfile_names_no_registry() -> None:
    assert '"resolved"' not in (EXTENSION / "package-lock.json").read_text()
