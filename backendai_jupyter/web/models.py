"""What the REST API says: its answers as models, and the pure functions that fill them.

The API document is made from these classes, and ``jupyter backendai ... --json`` prints
them too.  Timestamps are seconds since the epoch, UTC; amounts of slots are decimals in
strings, ``mem`` in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, RootModel

from backendai_jupyter.domain import records, wire
from backendai_jupyter.domain.batch import SessionType
from backendai_jupyter.domain.cluster import FailurePolicy
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.statistics import KernelStatistics, NodeStatistics
from backendai_jupyter.manager.board import Notice
from backendai_jupyter.manager.reports import Refusal
from backendai_jupyter.manager.scheduler.snapshot import Waiting
from backendai_jupyter.web.batch_models import BatchView, batch_of
from backendai_jupyter.web.pending import Pending, pending_of
from backendai_jupyter.web.relatives import Relative

MAX_SESSIONS = 1000  # in one answer
_NO_REFUSALS: Mapping[str, Refusal] = {}
_STATISTICS = "null if not asked for, or for the reason that is given"
_STATISTICS_REASON = "why there are none though they were asked for; a sentence"
END_REASON = "Its owner asked for its end."


class Model(BaseModel):
    # A client may be older than its server, so it takes no offence at a new field.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Exit(Model):
    """Why a kernel program is not running."""

    reason: wire.ExitReason
    message: str
    code: int | None = Field(description="128 + n for signal n")
    cause: str = Field(default="", description="code of the error of a start that failed")


class Pull(Model):
    """How much of an image has come; sizes are those of the registry's, compressed."""

    bytes_done: int
    bytes_total: int = Field(description="0: not known yet")
    layers_done: int = Field(description="that are also unpacked")
    layers_total: int


class Mount(Model):
    """A folder that a kernel sees."""

    target: str
    readonly: bool


class Kernel(Model):
    """One kernel of a compute session."""

    id: str = Field(description="the kernel's in `/api/kernels` too")
    role: str
    hostname: str
    status: Status
    status_reason: str = Field(description="a sentence; empty while all is well")
    status_since: float
    step: str = Field(default="", description="the launch step under way, where that is known")
    pull: Pull | None = Field(default=None, description="while its image is on its way")
    agent_id: str | None
    image: str
    slots: dict[str, str]
    mounts: list[Mount]
    workdir: str
    generation: int = Field(description="how often its program was asked for")
    exit: Exit | None
    statistics: KernelStatistics | None = Field(default=None, description=_STATISTICS)
    statistics_reason: str = Field(default="", description=_STATISTICS_REASON)


class Session(Model):
    """A compute session: 1..n kernels scheduled together."""

    id: str
    name: str
    owner: str = Field(description="id of the user")
    kernelspec: str
    type: SessionType = SessionType.INTERACTIVE
    batch: BatchView | None = None
    status: Status
    status_reason: str
    created_at: float
    ended_at: float | None
    resource_group: str = "default"
    priority: int = 10
    not_before: float = Field(default=0, description="when it may start; 0 is at once")
    pending: Pending | None = Field(default=None, description="while it waits to be placed")
    cluster_mode: wire.ClusterMode = Field(
        default=wire.ClusterMode.SINGLE_NODE, description="where several kernels are"
    )
    failure_policy: FailurePolicy = Field(
        default=FailurePolicy.END, description="what the end of one kernel means for the others"
    )
    startup: dict[str, list[str]] = Field(
        default={}, description="the command that is started beside the kernels of each role"
    )
    started_at: float | None = Field(
        default=None, description="when all its kernels were up for the first time"
    )
    kernels: list[Kernel] = Field(description="main1 first, then sub1 and so on")


class Step(Model):
    """One move in the life of a kernel."""

    kernel_id: str
    before: Status | None
    after: Status
    reason: str
    by: str
    at: float


class SessionDetail(Session):
    """A compute session and how it came to its status, oldest step first."""

    history: list[Step]
    depends_on: list[Relative] = Field(
        default=[], description="that must end well before it starts"
    )
    dependents: list[Relative] = Field(default=[], description="that wait for it to end well")


class SessionList(RootModel[list[Session]]):
    """Compute sessions, newest first."""


class Wanted(Model):
    """What to answer beside the thing itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statistics: bool = Field(default=False, description="also what is used at the moment")


class AgentStatus(StrEnum):
    ALIVE = "alive"
    LOST = "lost"  # it has not reported for a while
    REFUSED = "refused"  # its version and this manager's do not go together


class Holder(Model):
    """A kernel that has a device, or a part of one."""

    kernel_id: str | None = Field(description="null if it is not one of yours")
    session_id: str | None = Field(description="the same")
    amount: str


class Device(Model):
    """An accelerator of an agent."""

    id: str
    kind: str
    name: str
    memory_bytes: int = Field(description="0 if it is not known")
    slot: str = Field(description="the slot that counts it")
    capacity: str
    used: str
    holders: list[Holder]


class Agent(Model):
    """A node that runs kernels."""

    id: str
    status: AgentStatus
    version: str
    capacity: dict[str, str]
    used: dict[str, str]
    free: dict[str, str]
    images: list[str]
    devices: list[Device] = Field(
        default=[], description="accelerators that it offers, none while it is lost"
    )
    notes: list[str] = Field(description="what this node cannot enforce, in words")
    seen_at: float = Field(description="when it last said something new")
    is_drained: bool = Field(description="whether nothing new starts there")
    statistics: NodeStatistics | None = Field(default=None, description=_STATISTICS)
    statistics_reason: str = Field(default="", description=_STATISTICS_REASON)


class AgentChange(Model):
    """What may be changed of an agent."""

    is_drained: bool


class AgentList(RootModel[list[Agent]]):
    """Every agent ever seen, by id."""


class Preset(Model):
    """A named bundle of slots."""

    name: str
    slots: dict[str, str]


class PresetList(RootModel[list[Preset]]):
    """All resource presets, by name."""


class Me(Model):
    """The user on whose behalf this request was answered."""

    id: str
    name: str


class Problem(Model):
    """Why a request failed; ``code`` is stable, ``message`` is a sentence for people."""

    message: str
    reason: str | None = None
    code: str | None = None
    field: str | None = Field(default=None, description="the part of the request that is wrong")


def session_of(session: records.ComputeSession, waiting: Waiting | None = None) -> Session:
    return Session.model_validate(_session_fields(session, waiting))


def detail_of(
    session: records.ComputeSession,
    steps: Iterable[records.Step],
    waiting: Waiting | None = None,
) -> SessionDetail:
    history = [asdict(step) for step in steps]
    return SessionDetail.model_validate({**_session_fields(session, waiting), "history": history})


def with_progress(detail: SessionDetail, notices: Iterable[Notice]) -> SessionDetail:
    """Return the same with what its starting kernels do or wait for now."""
    known = {n.kernel_id: n for n in notices if n.starting}
    kernels = [_at_work(kernel, known.get(kernel.id)) for kernel in detail.kernels]
    changes: dict[str, object] = {"kernels": kernels}
    leading = next((k for k in kernels if k.status is detail.status and k.id in known), None)
    if leading is not None:
        changes["status_reason"] = leading.status_reason
    return detail.model_copy(update=changes)


def agents_of(
    agents: Iterable[records.Agent],
    reports: Mapping[str, wire.AgentReport],
    session_of_kernel: Callable[[str], str | None] = lambda _: None,
    *,
    refusals: Mapping[str, Refusal] = _NO_REFUSALS,
) -> AgentList:
    """Return all agents; those among ``reports`` are alive.

    ``session_of_kernel`` says whose a kernel that has a device is, if the asker may know it.
    """
    return AgentList(
        [
            _agent_of(agent, reports.get(agent.id), session_of_kernel, refusals.get(agent.id))
            for agent in agents
        ]
    )


def presets_of(presets: Iterable[records.Preset]) -> PresetList:
    return PresetList([Preset(name=p.name, slots=p.slots.to_json()) for p in presets])


def me_of(user: records.User) -> Me:
    return Me(id=user.id, name=user.name)


def _session_fields(session: records.ComputeSession, waiting: Waiting | None) -> dict[str, object]:
    return {
        "id": session.id,
        "name": session.name,
        "owner": session.owner,
        "kernelspec": session.kernelspec,
        "type": SessionType.INTERACTIVE if session.batch is None else SessionType.BATCH,
        "batch": batch_of(session),
        "status": session.status,
        "status_reason": session.status_reason,
        "created_at": session.created_at,
        "ended_at": session.ended_at,
        "resource_group": session.resource_group,
        "priority": session.priority,
        "not_before": session.not_before,
        "cluster_mode": session.cluster_mode,
        "failure_policy": session.failure_policy,
        "startup": {role: list(words) for role, words in session.startup.items()},
        "started_at": session.started_at,
        "pending": pending_of(waiting) if session.status is Status.PENDING else None,
        "kernels": [_kernel_of(kernel) for kernel in session.kernels],
    }


def _kernel_of(kernel: records.Kernel) -> Kernel:
    return Kernel(
        id=kernel.id,
        role=kernel.role,
        hostname=kernel.hostname,
        status=kernel.status,
        status_reason=kernel.status_reason,
        status_since=kernel.status_since,
        agent_id=kernel.agent_id,
        image=kernel.image,
        slots=kernel.slots.to_json(),
        mounts=[Mount(target=mount.target, readonly=mount.readonly) for mount in kernel.mounts],
        workdir=kernel.workdir,
        generation=kernel.generation,
        exit=exit_of(kernel.exit),
    )


def _at_work(kernel: Kernel, notice: Notice | None) -> Kernel:
    if notice is None or notice.status is not kernel.status:
        return kernel
    reason = kernel.status_reason if kernel.status is Status.PENDING else ""
    now = {
        "step": notice.step,
        "status_reason": reason or notice.message,
        "pull": pull_of(notice.pull),
    }
    return kernel.model_copy(update=now)


def exit_of(ending: wire.Exit | None) -> Exit | None:
    if ending is None:
        return None
    return Exit(reason=ending.reason, message=ending.message, code=ending.code, cause=ending.cause)


def pull_of(pull: wire.PullProgress | None) -> Pull | None:
    return None if pull is None else Pull(**pull.model_dump())


def _agent_of(
    agent: records.Agent,
    report: wire.AgentReport | None,
    session_of_kernel: Callable[[str], str | None],
    refusal: Refusal | None,
) -> Agent:
    status = AgentStatus.LOST if report is None else AgentStatus.ALIVE
    nothing = dict.fromkeys(agent.capacity, "0")
    return Agent(
        id=agent.id,
        status=AgentStatus.REFUSED if refusal else status,
        version=refusal.version if refusal else agent.version,
        capacity=agent.capacity.to_json(),
        used={**nothing, **agent.used.to_json()},
        free={**nothing, **agent.free.to_json()},
        images=list(agent.images),
        devices=[_device_of(one, session_of_kernel) for one in report.devices] if report else [],
        notes=[refusal.reason] if refusal else list(agent.notes),
        seen_at=agent.seen_at,
        is_drained=agent.is_drained,
    )


def _device_of(device: wire.DeviceReport, session_of_kernel: Callable[[str], str | None]) -> Device:
    holders = []
    for kernel_id, amount in device.held.items():
        session_id = session_of_kernel(kernel_id)
        known = kernel_id if session_id is not None else None
        holders.append(Holder(kernel_id=known, session_id=session_id, amount=_plain(amount)))
    return Device(
        id=device.id,
        kind=device.kind,
        name=device.name,
        memory_bytes=device.memory_bytes,
        slot=device.slot,
        capacity=_plain(device.capacity),
        used=_plain(sum(device.held.values(), Decimal(0))),
        holders=holders,
    )


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
