"""What is asked of a session's logs, and what they say."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from backendai_jupyter.web.models import Model


class Member(Model):
    """Which kernel of a session is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="main1", description="its hostname")


class Log(Model):
    """The end of what a kernel wrote to its stdout and stderr."""

    log: str
