"""Those who read a kernel's journal: each is a connection to a unix socket.

A reader's first line says what it wants: ``{"op": "attach", "session": ..., "after": ...}`` or
``{"op": "watch"}``.  Records go out as they are on the disk, by ``sendfile``: a slow reader is
a position in a file and holds no memory.  ``{"op": "ping"}`` is answered when nothing else is to
be said, for a reader on another machine hears nothing also when the link is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.relay.chronicle import Chronicle
from backendai_jupyter.agent.relay.records import Kind, encode
from backendai_jupyter.agent.relay.segments import Segment
from backendai_jupyter.errors import RelayFailed

_MAX_LINE_BYTES = 65_536
_MAX_SEND_BYTES = 8 << 20  # in one turn: other readers, and the kernel, have theirs
_WATCH_EVERY_S = 1.0  # for messages other than status
_MAX_KINDS = 1_000  # of messages that are told apart
_ALIVE_RECORD = b"".join(encode(0, Kind.ALIVE, ()))
_ALIVE_LINE = b'{"alive": true}\n'
_MAX_NEWS_BYTES = 65_536  # that a watcher has not read; then only the latest state counts


class Talk:
    """The lines that a peer sends, without waiting for any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._received = b""

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that are there; raises ``ConnectionError`` when it has gone."""
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(_MAX_LINE_BYTES)
            if not data:
                raise ConnectionResetError
            self._received += data
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > _MAX_LINE_BYTES:
            raise ConnectionAbortedError("a line without an end")
        try:
            parsed = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ConnectionAbortedError("a line that is no JSON") from error
        if not all(isinstance(line, dict) for line in parsed):
            raise ConnectionAbortedError("a line that is no object")
        return parsed


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """Records that the disk does not have; they belong at ``at``, in bytes of the stream."""

    at: int
    first_seq: int
    last_seq: int
    records: bytes


class Reader:
    """A client session's stream from its beginning on; ``blocked``: its socket is full."""

    def __init__(self, talk: Talk, request: dict[str, Any], chronicle: Chronicle) -> None:
        self.talk = talk
        self.session = str(request["session"])
        self.blocked = False
        self._chronicle = chronicle
        after = request.get("after")
        beginning = chronicle.attach(self.session, None if after is None else int(after))
        journal = chronicle.journal
        self._seq = beginning.after  # the last that is behind us, except within a segment
        following = journal.segment_after(self._seq)
        self._position = journal.end if following is None else following.start
        self._segment: Segment | None = None
        self._fd = -1
        self._memory: deque[_Unwritten] = deque()
        self.memory_bytes = 0
        self._is_asked = False  # whether the relay is there
        answer = {
            "after": beginning.after,
            "head": journal.head,
            "known": beginning.known,
            "state": chronicle.occupation,
        }
        self._rest = memoryview(json.dumps(answer).encode() + b"\n")

    @property
    def position(self) -> int:
        """Where it is in the stream, in bytes."""
        return self._position

    def hear(self) -> None:
        """Take its acknowledgements; raises ``ConnectionError`` when it has gone."""
        self.take(self.talk.lines())

    def take(self, lines: list[dict[str, Any]]) -> None:
        acks = [line["ack"] for line in lines if isinstance(line.get("ack"), int)]
        if acks:
            self._chronicle.ack(self.session, max(acks))
        self._is_asked = self._is_asked or _has_ping(lines)

    def remember(self, records: bytes, first_seq: int) -> None:
        """Take the latest records, from ``first_seq`` on, that could not be written."""
        journal = self._chronicle.journal
        self._memory.append(_Unwritten(journal.end, first_seq, journal.head, records))
        self.memory_bytes += len(records)

    def pump(self) -> None:
        """Send what there is and what fits; raises ``OSError`` when it has gone."""
        budget_bytes = _MAX_SEND_BYTES
        self.blocked = False
        try:
            while budget_bytes > 0:
                sent_bytes = self._send()
                if sent_bytes is not None:
                    budget_bytes -= sent_bytes
                elif self._is_asked:
                    self._rest, self._is_asked = memoryview(_ALIVE_RECORD), False
                else:
                    return
        except BlockingIOError:
            pass
        self.blocked = True

    def close(self) -> None:
        self._leave()
        self.talk.connection.close()

    def _send(self) -> int | None:
        """Send a piece and return its size; None if there is nothing to send."""
        if self._rest:
            sent_bytes = self.talk.connection.send(self._rest)
            self._rest = self._rest[sent_bytes:]
            return sent_bytes
        segment, journal = self._segment, self._chronicle.journal
        if segment is not None and self._position < segment.end:
            return self._send_file(segment)
        if segment is not None and journal.is_active(segment):
            return None
        if segment is not None:
            self._seq = max(self._seq, segment.last_seq)
        following = journal.segment_after(self._seq)
        if self._memory and (following is None or following.start >= self._memory[0].at):
            self._recite(self._memory.popleft())
        elif following is not None:
            self._enter(following)
        else:
            return None
        return 0

    def _send_file(self, segment: Segment) -> int:
        offset = self._position - segment.start
        sent_bytes = os.sendfile(
            self.talk.connection.fileno(), self._fd, offset, segment.end - self._position
        )
        if not sent_bytes:
            raise OSError(f"{segment.path} is shorter than what was written to it")
        self._position += sent_bytes
        return sent_bytes

    def _recite(self, unwritten: _Unwritten) -> None:
        self._skip_to(unwritten.first_seq)
        self._rest = memoryview(bytes(self._rest) + unwritten.records)
        self._seq = unwritten.last_seq
        self.memory_bytes -= len(unwritten.records)

    def _skip_to(self, seq: int) -> None:
        """Say what is missing before the record that comes next."""
        if seq > self._seq + 1:
            notice = self._chronicle.gap_record(self._seq, seq)
            self._rest = memoryview(bytes(self._rest) + notice)

    def _enter(self, segment: Segment) -> None:
        self._leave()
        self._skip_to(segment.first_seq)
        self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._segment = segment
        self._position = segment.start + segment.offset_after(self._seq)

    def _leave(self) -> None:
        if self._segment is not None:
            os.close(self._fd)
            self._segment, self._fd = None, -1


class Watcher:
    """Learns what the kernel does, not what it says."""

    def __init__(self, talk: Talk, state: str, *, readers: int) -> None:
        self.talk = talk
        self.blocked = False
        self._told_at: dict[tuple[str | None, str | None], float] = {}
        first = {"state": state, "type": None, "parent": None, "readers": readers}
        self._rest = json.dumps(first).encode() + b"\n"

    def hear(self) -> None:
        if _has_ping(self.talk.lines()) and not self._rest:
            self._rest = _ALIVE_LINE

    def tell(self, state: str, msg_type: str | None, parent_type: str | None) -> None:
        """Pass on a message, unless one like it was passed on just now."""
        now, like = time.monotonic(), (msg_type, parent_type)
        if msg_type != "status" and now - self._told_at.get(like, -_WATCH_EVERY_S) < _WATCH_EVERY_S:
            return
        if len(self._told_at) >= _MAX_KINDS:
            self._told_at.clear()
        self._told_at[like] = now
        news = {"state": state, "type": msg_type, "parent": parent_type}
        self._rest += json.dumps(news).encode() + b"\n"
        if len(self._rest) > _MAX_NEWS_BYTES:  # keep the line that is on its way, and the last
            first, _, others = self._rest.partition(b"\n")
            self._rest = first + b"\n" + others.rsplit(b"\n", 2)[-2] + b"\n"

    def pump(self) -> None:
        """Send what fits; raises ``OSError`` when it has gone."""
        self.blocked = False
        try:
            while self._rest:
                self._rest = self._rest[self.talk.connection.send(self._rest) :]
        except BlockingIOError:
            self.blocked = True

    def close(self) -> None:
        self.talk.connection.close()


def _has_ping(lines: list[dict[str, Any]]) -> bool:
    return any(line.get("op") == "ping" for line in lines)


def listen(path: Path) -> socket.socket:
    """Return a listening socket that only this user can connect to.

    Raises ``RelayFailed``.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        path.chmod(0o600)  # nobody can connect before ``listen``
        listening.listen()
    except OSError as error:
        listening.close()
        raise RelayFailed(
            f"The relay cannot listen on {path}: {error.strerror or error}."
        ) from error
    listening.setblocking(False)
    return listening
