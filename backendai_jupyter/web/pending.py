"""Where a session that waits stands, as the REST API says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backendai_jupyter.manager.scheduler.snapshot import Waiting, Why


class Pending(BaseModel):
    """Where a session that waits stands, as of the last moments."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    why: Why
    reason: str = Field(description="a sentence")
    position: int | None = Field(
        description="in the queue of its resource group, from 1; null before its time"
    )
    shortfall: dict[str, str] = Field(
        description="what the agent of the group that is closest to enough lacks"
    )


def pending_of(waiting: Waiting | None) -> Pending | None:
    if waiting is None:
        return None
    return Pending(
        why=waiting.why,
        reason=waiting.reason,
        position=waiting.position,
        shortfall=waiting.shortfall.to_json(),
    )
