"""What one kernel has published, and who has got how much of it.

Brings together the journal on disk, the executions in it and the positions of the client
sessions, and says in the kernel's name what of it is missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from backendai_jupyter.agent.relay.deliveries import Beginning, Deliveries, Session
from backendai_jupyter.agent.relay.executions import Execution, Executions
from backendai_jupyter.agent.relay.journal import Gap, Journal, Why
from backendai_jupyter.agent.relay.messages import Signer
from backendai_jupyter.agent.relay.records import Frame, Kind, Record, encode

STARTING = "starting"

_POSITIONS = "positions.json"
_SAVE_S = 1.0  # between two times that positions are written
_EXECUTE = "execute_request"
_WELCOME = "iopub_welcome"
_FRAMES = {Kind.IOPUB: 5, Kind.SHELL: 6, Kind.STDIN: 6, Kind.CONTROL: 6, Kind.REQUEST: 2}

log = logging.getLogger(__name__)


class Header(NamedTuple):
    """What matters of a message's header; ``raw`` is its JSON."""

    raw: bytes
    msg_id: str = ""
    msg_type: str = ""
    session: str = ""


class Chronicle:
    """Used by one thread; opening it reads back what is on the disk.

    ``keep_from`` returns where in the stream the slowest attached reader is, or None.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        signer: Signer,
        *,
        keep_from: Callable[[], int | None],
    ) -> None:
        self.state = STARTING
        self.stamp = b""  # of the last record that was read back with one
        self.idle_of = ""  # the id of the last request that the kernel was done with
        self._signer = signer
        self._session = ""  # the kernel program's own
        self._parent = Header(b"{}")  # of the last message, for many have the same
        self._positions = directory / _POSITIONS
        self._save_at: float | None = None
        self._ended_one = False
        self.executions = Executions()
        sessions, gaps = _load(self._positions)
        self.deliveries = Deliveries(self.executions, sessions)
        self.journal = Journal(
            directory,
            max_bytes,
            observe=self._recall,
            unfinished=self.executions.unfinished,
            keep_from=keep_from,
            gaps=gaps,
        )
        # An acknowledgement may have outlived the records, if the machine lost power.
        self.journal.skip_to(self.deliveries.last_acked)
        self._losses_saved = self.journal.losses

    @property
    def occupation(self) -> str:
        """What the kernel is at, whatever other questions it answers meanwhile."""
        if self.state == STARTING:
            return STARTING
        at_work = [e for e in self.executions.going_on() if not e.idle]
        # Of one whose request nobody saw the end may have been missed, too.
        is_busy = any(e.route for e in at_work) or (at_work and self.state == "busy")
        return "busy" if is_busy else "idle"

    def take(
        self, kind: Kind, frames: Sequence[Frame], stamp: bytes = b""
    ) -> tuple[str, str | None] | None:
        """Add a message that is written by the next ``commit``; return its type and parent's.

        One that matters to a single ZeroMQ subscriber only is left out.  Raises ``ValueError``
        when it is no message of Jupyter's, or too large for a record.
        """
        if len(frames) < _FRAMES[kind]:
            raise ValueError(f"a message of {len(frames)} frames")
        header, parent, execution = self._note(self.journal.head + 1, kind, frames)
        if header.msg_type == _WELCOME:
            return None
        self.journal.add(kind, frames, _output_of(execution, kind), stamp)
        return header.msg_type, parent.msg_type or None

    def commit(self) -> bytes:
        """Write what was taken; return it as records if that is impossible."""
        unwritten = self.journal.flush()
        if self._ended_one:
            self._ended_one = False
            self.journal.rotate()
        return unwritten

    def kernel_gone(self) -> None:
        self.executions.kernel_gone()

    def kernel_came(self) -> None:
        for execution in self.executions.kernel_came(self.journal.head):
            self.deliveries.ended(execution)

    def attach(self, session: str, after: int | None) -> Beginning:
        beginning = self.deliveries.attach(session, after, self.journal.head)
        if beginning.known:
            self._save_soon()
        else:  # a relay that comes after this one must know who asked for what goes on
            self.save()
        return beginning

    def ack(self, session: str, seq: int) -> None:
        self._save_soon()
        self.deliveries.ack(session, min(seq, self.journal.head))

    def detach(self, session: str) -> None:
        self.deliveries.detach(session)
        self.save()

    def _notice(self, text: str, parent: bytes = b"{}") -> list[bytes]:
        """Return a message to stderr in the kernel's name, from its signature on."""
        content = {"name": "stderr", "text": f"{text}\n"}
        return self._signer.build("stream", content, session=self._session, parent=parent)[1:]

    def trouble_notice(self) -> list[bytes]:
        """Return a message that says why the journal cannot be written."""
        going_on = self.executions.going_on()
        text = (
            f"[The journal of this kernel cannot be written: {self.journal.trouble}. "
            "Whoever connects later will miss some output.]"
        )
        return self._notice(text, going_on[0].header if going_on else b"{}")

    def gap_record(self, seq: int, next_seq: int) -> bytes:
        """Return a record that says, in place of what lies between, that it is gone."""
        gap = self.journal.gap_between(seq, next_seq)
        execution = self.executions.concerned(gap.last_seq)
        parent = execution.header if execution else b"{}"
        frames = self._notice(_gap_text(gap, self.journal.max_bytes), parent)
        return b"".join(encode(gap.last_seq, Kind.IOPUB, frames))

    def save_in_s(self) -> float | None:
        """Return how long ``save`` may wait; None if there is nothing to save."""
        if self.journal.losses != self._losses_saved:
            self._save_soon()
        return None if self._save_at is None else max(0.0, self._save_at - time.monotonic())

    def save(self) -> None:
        """Write the positions; what is lost without is at most that records come twice."""
        self._save_at = None
        self._losses_saved = self.journal.losses
        content = {
            "sessions": self.deliveries.sessions(),
            "gaps": [asdict(gap) for gap in self.journal.gaps],
        }
        partial = self._positions.with_suffix(".partial")
        try:
            partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.write_text(json.dumps(content))
            partial.rename(self._positions)
        except OSError as error:
            log.warning("%s: %s", self._positions, error.strerror)

    def close(self) -> None:
        self.save()
        self.journal.close()

    def _save_soon(self) -> None:
        if self._save_at is None:
            self._save_at = time.monotonic() + _SAVE_S

    def _recall(self, record: Record) -> str | None:
        self.stamp = record.stamp or self.stamp
        _, _, execution = self._note(record.seq, record.kind, record.frames)
        return _output_of(execution, record.kind)

    def _note(
        self, seq: int, kind: Kind, frames: Sequence[Frame]
    ) -> tuple[Header, Header, Execution | None]:
        """Return a message's header, its parent's, and the execution that it belongs to."""
        if kind is Kind.REQUEST:
            header = read_header(bytes(frames[1]))
            route = bytes(frames[0])
            request = self.executions.requested(seq, header.msg_id, header.raw, route)
            return header, Header(b"{}"), request
        first = 1 if kind is Kind.IOPUB else 2
        header, parent = (
            read_header(bytes(frames[first])),
            self._parent_of(bytes(frames[first + 1])),
        )
        state = ""
        if kind is Kind.IOPUB:
            self._session = header.session
            if header.msg_type == "status":
                self.state = state = _state(frames[first + 3])
                if state == "idle":
                    self.idle_of = parent.msg_id
        if parent.msg_type != _EXECUTE:
            return header, parent, None
        execution = self.executions.seen(seq, parent.msg_id, parent.raw)
        ended = False
        if state == "idle":
            ended = self.executions.became_idle(seq, execution)
        elif header.msg_type == "execute_reply":
            ended = self.executions.replied(seq, execution)
        if ended:
            self._ended_one = True
            self.deliveries.ended(execution)
        return header, parent, execution

    def _parent_of(self, raw: bytes) -> Header:
        if raw != self._parent.raw:
            self._parent = read_header(raw)
        return self._parent


def _output_of(execution: Execution | None, kind: Kind) -> str | None:
    return None if execution is None or kind is Kind.REQUEST else execution.msg_id


def read_header(raw: bytes) -> Header:
    """Read a header; what is none has no type."""
    with contextlib.suppress(ValueError, AttributeError):
        get = json.loads(raw.decode()).get
        return Header(
            raw, str(get("msg_id", "")), str(get("msg_type", "")), str(get("session", ""))
        )
    return Header(raw)


def _state(content: Frame) -> str:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(bytes(content))["execution_state"])
    return ""


def _load(path: Path) -> tuple[dict[str, Session], list[Gap]]:
    """Return what ``save`` wrote; nothing if it cannot be read."""
    try:
        content = json.loads(path.read_text())
        sessions = {name: Session(**one) for name, one in content["sessions"].items()}
        gaps = [Gap(**gap | {"why": Why(gap["why"])}) for gap in content["gaps"]]
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}, []
    return sessions, gaps


def _gap_text(gap: Gap, max_bytes: int) -> str:
    count = gap.last_seq - gap.first_seq + 1
    what = f"{count:,} messages" if count > 1 else "One message"
    if gap.size_bytes:
        what += f" ({gap.size_bytes / 1e6:,.1f} MB)"
    verb = "are" if count > 1 else "is"
    match gap.why:
        case Why.BOUND:
            kept = f"at most {max_bytes / (1 << 20):,.0f} MiB"
            return f"[{what} of output {verb} missing here: {kept} are kept until it is read.]"
        case Why.DISK:
            return f"[{what} of output {verb} missing here: the disk had no room for it.]"
        case Why.DAMAGE:
            return f"[{what} of output {verb} missing here: the journal on the disk was damaged.]"
