"""Which cells a kernel owes an answer, learned from a copy of its shell traffic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from backendai_jupyter.agent.relay.messages import DELIMITER

MAX_CELLS = 10_000  # a client that never signs its requests right is never answered


@dataclass(frozen=True, slots=True)
class Cell:
    """One ``execute_request`` without its reply; ``header`` is JSON as it came."""

    route: tuple[bytes, ...]  # routing frames that lead back to the waiting client
    header: bytes


class Cells:
    """Follows the requests and replies of one kernel.

    ``session`` is the kernel program's own, once it has answered anything.  JupyterLab
    drops what it is still handling when a message of another session arrives, so whatever
    the relay says in the kernel's name must carry it.
    """

    def __init__(self) -> None:
        self.session = ""
        self.connected = False
        self._running: dict[str, Cell] = {}
        self._lost: dict[str, Cell] = {}
        self._adopted: set[str] = set()

    def observe(self, frames: Sequence[bytes]) -> str:
        """Take note of a message in either direction and return its type.

        What is not Jupyter's has no type: the kernel gets it as it is, and has its own opinion.
        """
        try:
            start = frames.index(DELIMITER)
            header = json.loads(frames[start + 2])
            self._note(header, tuple(frames[:start]), frames[start + 2], frames[start + 3])
        except (ValueError, LookupError, TypeError, AttributeError):
            return ""
        return str(header["msg_type"])

    def adopt(self, cell: Cell) -> None:
        """Take note of a request that the relay before this one has forwarded."""
        msg_id = json.loads(cell.header)["msg_id"]
        self._running[msg_id] = cell
        self._adopted.add(msg_id)

    def take_adopted(self) -> list[Cell]:
        """Return those of an earlier relay that still wait, and drop them."""
        adopted = [self._running.pop(i) for i in list(self._running) if i in self._adopted]
        self._adopted.clear()
        return adopted

    def kernel_connected(self) -> None:
        """A kernel program is there, perhaps a new one: the former one's cells are history."""
        self.connected = True
        self.session = ""
        self._lost.clear()

    def kernel_disconnected(self) -> None:
        """The kernel program has gone and took its cells with it."""
        self.connected = False
        self._lost |= self._running
        self._running = {}

    def waiting(self) -> list[Cell]:
        """Return the cells without an answer, the one that runs (or ran) first."""
        return list((self._lost or self._running).values())

    def forget(self) -> None:
        """Drop what ``waiting`` returned, for it has been answered otherwise."""
        (self._lost or self._running).clear()

    def _note(
        self, header: dict[str, str], route: tuple[bytes, ...], raw: bytes, parent: bytes
    ) -> None:
        msg_type = header["msg_type"]
        if msg_type == "execute_request":
            self._running[header["msg_id"]] = Cell(route, raw)
            if len(self._running) > MAX_CELLS:
                del self._running[next(iter(self._running))]
        elif msg_type.endswith("_reply"):
            self.session = header["session"]
            if msg_type == "execute_reply":
                self._running.pop(json.loads(parent)["msg_id"], None)
