"""All who read one kernel's journal, and the door through which they come."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping

import zmq

from backendai_jupyter.agent.relay.chronicle import Chronicle
from backendai_jupyter.agent.relay.readers import Reader, Talk, Watcher

_MAX_MEMORY_BYTES = 4 << 20  # of what the disk could not take, for one reader

log = logging.getLogger(__name__)


class Audience:
    """Used by the kernel's iopub thread, whose poller it takes part in."""

    def __init__(self, listening: socket.socket, poller: zmq.Poller) -> None:
        self._listening = listening
        self._poller = poller
        self._newcomers: dict[int, Talk] = {}
        self._readers: dict[int, Reader] = {}
        self._watchers: dict[int, Watcher] = {}
        poller.register(listening.fileno(), zmq.POLLIN)

    def keep_from(self) -> int | None:
        """Return where in the stream the slowest reader is; None if there is no reader."""
        return min((reader.position for reader in self._readers.values()), default=None)

    def memory_is_full(self) -> bool:
        return any(r.memory_bytes > _MAX_MEMORY_BYTES for r in self._readers.values())

    def remember(self, records: bytes, first_seq: int) -> None:
        """Keep records for every reader that is here, as the disk cannot."""
        for reader in self._readers.values():
            reader.remember(records, first_seq)

    def tell(self, state: str, msg_type: str, parent_type: str | None) -> None:
        for watcher in self._watchers.values():
            watcher.tell(state, msg_type, parent_type)

    def serve(self, ready: Mapping[object, int], chronicle: Chronicle) -> None:
        """Let in and hear whoever is ready."""
        if self._listening.fileno() in ready:
            self._let_in()
        for fd in [fd for fd in (*self._newcomers, *self._peers()) if fd in ready]:
            try:
                if fd in self._newcomers:
                    self._welcome(fd, chronicle)
                elif ready[fd] & ~zmq.POLLOUT:
                    self._peers()[fd].hear()
            except (OSError, LookupError, TypeError, ValueError) as error:
                self._part_from(fd, chronicle, error)

    def pump(self, chronicle: Chronicle) -> None:
        """Send to everybody what fits."""
        for fd, peer in self._peers().items():
            was_blocked = peer.blocked
            try:
                peer.pump()
            except OSError as error:
                self._part_from(fd, chronicle, error)
                continue
            if peer.blocked != was_blocked:
                self._poller.modify(fd, zmq.POLLIN | (zmq.POLLOUT if peer.blocked else 0))

    def close(self) -> None:
        for peer in self._peers().values():
            peer.close()
        for talk in self._newcomers.values():
            talk.connection.close()
        self._listening.close()

    def _peers(self) -> dict[int, Reader | Watcher]:
        return {**self._readers, **self._watchers}

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):  # it has gone again, or there are too many files
            connection, _ = self._listening.accept()
            self._newcomers[connection.fileno()] = Talk(connection)
            self._poller.register(connection.fileno(), zmq.POLLIN)

    def _welcome(self, fd: int, chronicle: Chronicle) -> None:
        lines = self._newcomers[fd].lines()
        if not lines:
            return
        if lines[0]["op"] == "watch":
            talk, readers = self._newcomers.pop(fd), len(self._readers)
            self._watchers[fd] = Watcher(talk, chronicle.occupation, readers=readers)
            return
        if lines[0]["op"] != "attach":
            raise ValueError("neither attach nor watch")
        name = str(lines[0]["session"])
        for former in [fd for fd, reader in self._readers.items() if reader.session == name]:
            self._part_from(former, chronicle, None)
        self._readers[fd] = Reader(self._newcomers[fd], lines[0], chronicle)
        del self._newcomers[fd]
        self._readers[fd].take(lines[1:])

    def _part_from(self, fd: int, chronicle: Chronicle, reason: Exception | None) -> None:
        if reason is not None and not isinstance(reason, ConnectionError):
            log.warning("a reader of the journal is turned away: %s", reason)
        self._poller.unregister(fd)
        if (reader := self._readers.pop(fd, None)) is not None:
            reader.close()
            chronicle.detach(reader.session)
        elif (watcher := self._watchers.pop(fd, None)) is not None:
            watcher.close()
        else:
            self._newcomers.pop(fd).connection.close()
