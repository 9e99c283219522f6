"""Which sessions a client asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backendai_jupyter.domain.records import Selection
from backendai_jupyter.domain.states import Status
from backendai_jupyter.web.models import MAX_SESSIONS, Wanted


class SessionFilter(Wanted):
    """Which sessions to list."""

    status: list[Status] = Field(
        default=[], description="only these, given once for each; none: all"
    )
    resource_group: str | None = Field(default=None, description="only of this one")
    owner: str | None = Field(default=None, description="only of the user with this id")
    name: str | None = Field(default=None, description="only those with this name")
    since: float | None = Field(default=None, description="only those asked for since then")
    oldest_first: bool = False
    after: str | None = Field(
        default=None, description="id of the last session of the page before this one"
    )
    limit: Annotated[int, Field(ge=1, le=MAX_SESSIONS)] = MAX_SESSIONS

    def selection(self) -> Selection:
        return Selection(
            statuses=frozenset(self.status),
            resource_group=self.resource_group,
            owner=self.owner,
            name=self.name,
            since=self.since,
            oldest_first=self.oldest_first,
            after=self.after,
            limit=self.limit,
        )
