"""What the relay knows of a kernel at this moment, for whoever need not follow it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.journal_link import open_journal_blocking

_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Glance:
    """``state`` is ``busy``, ``idle`` or ``starting``; ``readers`` are clients of any server.

    Where the relay does not say: ``idle``, and None.
    """

    state: str = "idle"
    readers: int | None = None


def glance(connection: Connection) -> Glance:
    """Ask the kernel's relay; it blocks."""
    if connection.journal_socket is None:
        return Glance()
    try:
        with open_journal_blocking(connection, timeout_s=_TIMEOUT_S) as journal:
            journal.sendall(b'{"op": "watch"}\n')
            with journal.makefile("rb") as lines:
                said = json.loads(lines.readline())
        return Glance(str(said["state"]), int(said["readers"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        path = connection.journal_socket
        log.warning("the journal %s does not say what its kernel does: %s", path, error)
        return Glance()
