"""Batch sessions in words: how far they are, how they ended, what they run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from backendai_jupyter.cli.output import span
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.web.batch_models import BatchView
from backendai_jupyter.web.models import Session


def sentence(session: Session) -> str:
    """Return one line: what it waits for, how far it is, or how it ended."""
    shown = session.batch
    if shown is None or session.status in FINAL:
        return _ended(session)
    if session.status is not Status.RUNNING:
        which = f" (attempt {shown.attempt} of {shown.attempts})" if shown.attempt > 1 else ""
        return f"{session.id} is {session.status}{which}. {session.status_reason}".rstrip()
    far = f", cell {shown.progress.cell} of {shown.progress.cells}" if shown.progress else ""
    return f"{session.id} is RUNNING{far}."


def facts(session: Session) -> Iterator[tuple[str, str]]:
    """Yield what ``session show`` says of a batch; nothing of another session."""
    shown = session.batch
    if shown is None:
        return
    yield "runs", shown.notebook or shlex.join(shown.command)
    yield "parameters", ", ".join(f"{name}={value!r}" for name, value in shown.parameters.items())
    yield "result", shown.output
    yield "log", shown.log
    yield "time limit", span(shown.timeout_s) if shown.timeout_s is not None else ""
    yield "attempt", f"{shown.attempt} of {shown.attempts}"
    yield "cell", f"{shown.progress.cell} of {shown.progress.cells}" if shown.progress else ""
    yield "end", shown.end or ""


def _ended(session: Session) -> str:
    ending = session.kernels[0].exit
    said = ending.message if ending else session.status_reason
    how = f", {session.batch.end}" if session.batch is not None else ""
    return f"{session.id} is {session.status}{how}: {said}{_where(session.batch)}"


def _where(shown: BatchView | None) -> str:
    return f" See {shown.output}." if shown is not None and shown.output and shown.progress else ""
