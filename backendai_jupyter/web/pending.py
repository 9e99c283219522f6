"""Where a session that waits stands, as the REST API says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backendai_jupyter.manager.scheduler.snapshot import Waiting, Why


class Estimate(BaseModel):
    """When a session may start, by the run times of others; nobody knows what comes meanwhile."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    earliest: float
    latest: float | None = Field(description="null if nobody can say")


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
    estimate: Estimate | None = Field(
        default=None, description="null where too few have ended of which one could learn"
    )


def pending_of(waiting: Waiting | None) -> Pending | None:
    if waiting is None:
        return None
    when = waiting.estimate
    return Pending(
        why=waiting.why,
        reason=waiting.reason,
        position=waiting.position,
        shortfall=waiting.shortfall.to_json(),
        estimate=None if when is None else Estimate(earliest=when.earliest, latest=when.latest),
    )
