"""Sessions that depend on each other, as the REST API says it."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from backendai_jupyter.domain import records
from backendai_jupyter.domain.states import Status


class Relative(BaseModel):
    """A session that another one depends on, or that depends on it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    status: Status
    status_reason: str
    is_met: bool = Field(description="whether the one that the other depends on has ended well")


def relatives_of(found: Iterable[records.Relative]) -> list[Relative]:
    return [
        Relative(
            id=one.id,
            name=one.name,
            status=one.status,
            status_reason=one.status_reason,
            is_met=one.is_met,
        )
        for one in found
    ]
