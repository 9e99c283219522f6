"""What is asked of a dry run, and what it answers."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from backendai_jupyter.manager.scheduler.snapshot import Decision, Waiting
from backendai_jupyter.web.models import Model
from backendai_jupyter.web.pending import Pending, pending_of


class SessionOptions(Model):
    """How to ask for a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = Field(default=False, description="whether only to say what would happen")


class NewSession(Model):
    """What to start: a kernelspec of ours, and what is asked for beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernelspec: str = "backendai-python"
    backendai: dict[str, object] = Field(
        default={}, description="as in `POST /api/kernels`: `resources`, `resource_group` ..."
    )


class DryRun(Model):
    """What would become of a session that is asked for now."""

    resource_group: str
    agents: dict[str, str] = Field(
        description="which agent each kernel would start on, by hostname; empty if it would wait"
    )
    pending: Pending | None


def dry_run_of(decision: Decision) -> DryRun:
    if isinstance(decision, Waiting):
        return DryRun(
            resource_group=decision.session.group, agents={}, pending=pending_of(decision)
        )
    return DryRun(resource_group=decision.session.group, agents=dict(decision.agents), pending=None)
