"""Tell Jupyter's event log of every change of a session, so that JupyterLab hears of it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_events import EventLogger

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.provisioning.changes import Change
from backendai_jupyter.web.event_models import jupyter_event_of

SCHEMA_ID = "https://events.backend.ai/jupyter/kernel_status/v1"
SCHEMA = Path(__file__).parents[1] / "event_schemas" / "kernel_status" / "v1.yaml"


def emitter(event_log: EventLogger, viewer: Viewer) -> Callable[[Sequence[Change]], None]:
    """Return what emits the changes that the viewer may see; registers their schema."""
    event_log.register_event_schema(SCHEMA)

    def emit(changes: Sequence[Change]) -> None:
        for change in changes:
            if viewer.may_see(change.notice.owner):
                event_log.emit(schema_id=SCHEMA_ID, data=jupyter_event_of(change))

    return emit
