"""Every notebook kernel is a container on some node of a Backend.AI-style cluster.

Importing this package loads nothing else of it: the relay and the kernels' own processes
import parts of it too and must start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell Jupyter Server where the extension is; only a server pays for loading it."""
    app = import_module("backendai_jupyter.app")
    return [{"module": app.__name__, "app": app.BackendAIExtension}]
