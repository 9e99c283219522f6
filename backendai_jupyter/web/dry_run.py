"""What is asked for with a session, and what its dry run answers."""

from __future__ import annotations

from pydantic import ConfigDict, Field, RootModel

from backendai_jupyter.domain.batch import SessionType
from backendai_jupyter.domain.batch_request import BatchRequest
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.scheduler.snapshot import Decision, Waiting
from backendai_jupyter.web.batch_models import NewBatch
from backendai_jupyter.web.models import Model, SessionDetail
from backendai_jupyter.web.pending import Pending, pending_of


class SessionOptions(Model):
    """How to ask for a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = Field(default=False, description="whether only to say what would happen")


class NewSession(Model):
    """What to start: a kernelspec of ours, and what is asked for beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: SessionType = SessionType.INTERACTIVE
    name: str = Field(default="", max_length=255, description="that of the kernelspec if empty")
    kernelspec: str = Field(
        default="", description="default: `backendai-python`; of a batch what its notebook names"
    )
    batch: NewBatch | None = Field(default=None, description="what a session of type `batch` runs")
    backendai: dict[str, object] = Field(
        default={}, description="as in `POST /api/kernels`: `resources`, `resource_group` ..."
    )

    def batch_request(self) -> BatchRequest:
        """Return what a session of type ``batch`` runs; raises ``InvalidInput``."""
        if self.batch is None:
            raise InvalidInput("batch", "it is missing: what is to be run?")
        return self.batch.request()


class DryRun(Model):
    """What would become of a session that is asked for now."""

    resource_group: str
    agents: dict[str, str] = Field(
        description="which agent each kernel would start on, by hostname; empty if it would wait"
    )
    pending: Pending | None


class NewSessionAnswer(RootModel[SessionDetail | DryRun]):
    """The session that was made, or what would become of it."""


def dry_run_of(decision: Decision) -> DryRun:
    if isinstance(decision, Waiting):
        return DryRun(
            resource_group=decision.session.group, agents={}, pending=pending_of(decision)
        )
    return DryRun(resource_group=decision.session.group, agents=dict(decision.agents), pending=None)
