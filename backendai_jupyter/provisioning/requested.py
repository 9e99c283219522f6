"""What a REST request says about the kernel it asks for, on its way past jupyter_server.

jupyter_server's handlers hand on only the fields that they know.  Ours note the rest in a
context variable, which is visible to everything that the request calls, and to nothing
else.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from backendai_jupyter.domain.options import Options


@dataclass(frozen=True, slots=True)
class Requested:
    """``options`` is the ``backendai`` object of the body; ``notebook`` a contents path."""

    options: Options | None = None
    notebook: str | None = None


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """All that a server tells the provisioner about one kernel; the same at each restart.

    Both paths are contents paths: the directory to work in, and the notebook if there is
    one.
    """

    layers: tuple[Options, ...]
    directory: str
    notebook: str | None


REQUESTED: ContextVar[Requested | None] = ContextVar("backendai_requested", default=None)
