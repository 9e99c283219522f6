"""What is said of every change of a session, on the event stream and to Jupyter's event log."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field

from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Phase
from backendai_jupyter.provisioning.changes import Change
from backendai_jupyter.web.batch_models import Progress, progress_of
from backendai_jupyter.web.models import Exit, Model, Pull, exit_of, pull_of
from backendai_jupyter.web.operation import Bytes


class SessionEvent(Model):
    """The state of one kernel of a session, after it has changed: data of ``session``."""

    session_id: str
    kernel_id: str
    jupyter_kernel_id: str | None = Field(description="what Jupyter calls it")
    hostname: str = Field(default="main1", description="what its session calls it")
    status: Status
    phase: Phase | None = Field(description="how far its agent is; null before one has it")
    step: str = Field(description="the launch step under way, or the one that failed")
    reason: str = Field(description="a sentence: why it has its status, or what happens now")
    pull: Pull | None = Field(default=None, description="while its image is on its way")
    exit: Exit | None = Field(description="why its program is not running")
    progress: Progress | None = Field(
        default=None, description="how far the notebook of a batch session is, while it runs"
    )
    generation: int = Field(description="how often its program was asked for")
    since: float = Field(description="when it got its status, seconds since the epoch, UTC")
    at: float = Field(description="when this was seen, seconds since the epoch, UTC")


class SnapshotEvent(Model):
    """Comes first, and where events were left out: what is not named is over.

    A ``session`` event for each of them follows.  Data of ``snapshot``.
    """

    session_ids: list[str]


class EventStream(Bytes):
    """Server-sent events: a `snapshot`, then a `session` for each that lives and each change."""

    media_type: ClassVar[str] = "text/event-stream"
    parts: ClassVar[tuple[type[BaseModel], ...]] = (SessionEvent, SnapshotEvent)


def event_of(change: Change) -> SessionEvent:
    notice = change.notice
    return SessionEvent(
        session_id=notice.session_id,
        kernel_id=notice.kernel_id,
        jupyter_kernel_id=notice.jupyter_kernel_id,
        hostname=notice.hostname,
        status=notice.status,
        phase=notice.phase,
        step=notice.step,
        reason=notice.message,
        pull=pull_of(notice.pull),
        exit=exit_of(notice.exit),
        progress=progress_of(notice.progress),
        generation=notice.generation,
        since=notice.since,
        at=change.at,
    )


def jupyter_event_of(change: Change) -> dict[str, Any]:
    """Return the same as Jupyter's event log takes it."""
    return event_of(change).model_dump(mode="json")
