"""Find the notebook that nbclient (papermill, ``jupyter execute``) is about to run.

nbclient gives a kernel provisioner everything but the notebook whose metadata may ask for
resources: neither the kernel manager nor its arguments lead to it.  The client that starts
the kernel is, however, always a caller of the provisioner, so it is found on the stack.
See docs/explanation/decisions/006-batch-metadata.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from nbclient.client import NotebookClient


def calling_notebook_metadata() -> dict[str, Any]:
    """Return the metadata of the notebook whose client is calling, or an empty dict."""
    for caller in _callers():
        if isinstance(caller, NotebookClient):
            return dict(caller.nb.metadata)
    return {}


def _callers() -> Iterator[object]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_locals.get("self")
        frame = frame.f_back  # type: ignore[assignment]
