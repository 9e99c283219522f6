"""Jupyter's own sessions (notebook and kernel), kept on disk: they outlive the server."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from jupyter_server.services.sessions.sessionmanager import SessionManager
from traitlets import default

from backendai_jupyter.provisioning.backends import BACKENDS

log = logging.getLogger(__name__)


class BackendAISessionManager(SessionManager):
    """jupyter_server's, with its file in our data directory."""

    @default("database_filepath")
    def _in_data_dir(self) -> str:
        path = Path(BACKENDS.backend.settings.data_dir) / "jupyter_sessions.sqlite"
        _set_aside_if_damaged(path)
        return str(path)


def _set_aside_if_damaged(path: Path) -> None:
    """Let a server start whose file is damaged: only which notebook had which kernel is lost."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except sqlite3.OperationalError as error:
        log.warning("%s cannot be read now: %s", path, error)
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(".damaged")
        path.rename(aside)
        log.error(
            "%s is damaged (%s) and now called %s; notebooks must be given their kernels again.",
            path, error, aside.name,
        )  # fmt: skip
