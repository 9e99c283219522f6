"""Managers and agents of several versions at once, as during an upgrade: none undoes another."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from backendai_jupyter import __version__
from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import (
    PROTOCOL,
    AgentReport,
    Assignment,
    Connection,
    Exit,
    ExitReason,
    Image,
    JournalDoor,
    KernelReport,
    Mount,
    Phase,
    Record,
    Signal,
)
from backendai_jupyter.manager.reconciler import updated
from backendai_jupyter.manager.reports import ReportReader
from backendai_jupyter.web.models import AgentStatus
from backendai_jupyter.web.queries import read_agents
from tests.helpers import eventually
from tests.misbehaviour import LiveStoreOfAnotherVersion
from tests.unit.one_machine import Start

NEWS = {"from_a_newer_version": {"x": [1]}}
IMAGE = Image(name="python", reference="r", runtime="process", labels={"a": "b"})
ENDING = Exit(reason=ExitReason.EXITED, message="It ended.", code=1)
DOOR = JournalDoor(place="p", host="h", port=1, certificate="c", token="t")
ENDPOINT = Endpoint("127.0.0.1", 1, 2, 3, 4, 5, "public", "secret", "socket")
SAMPLES: list[Record] = [
    Assignment(
        kernel_id="k",
        session_id="s",
        owner="u",
        generation=1,
        image="python",
        argv=("python", "{connection_file}"),
        env={"A": "b"},
        limits=Slots({"cpu": 1, "rocm.device": 2}),
        mounts=(Mount(source="/a", target="/home/work/a"),),
        signal=Signal(seq=1, signum=2),
    ),
    AgentReport(
        agent_id="a",
        revision=1,
        version="1",
        capacity=Slots({"cpu": 1}),
        images=(IMAGE,),
        kernels=(KernelReport(kernel_id="k", generation=1, phase=Phase.EXITED, exit=ENDING),),
    ),
    Connection(
        ip="h",
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key="x",
        journal_door=DOOR,
    ),
    Checkpoint(kernel_id="k", generation=1, image=IMAGE, key="x", endpoint=ENDPOINT, exit=ENDING),
]


def newer(record: Record) -> dict[str, Any]:
    """Return what a peer writes that knows more of a record, and of those within it."""
    raw = record.model_dump(mode="json")
    for name, value in record:
        if isinstance(value, Record):
            raw[name] = newer(value)
        elif isinstance(value, tuple):
            raw[name] = [newer(one) if isinstance(one, Record) else one for one in value]
        elif isinstance(value, Endpoint):
            raw[name] |= NEWS
    return raw | NEWS


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_what_a_newer_peer_adds_is_ignored(record: Record) -> None:
    assert type(record).model_validate_json(json.dumps(newer(record))) == record


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_what_an_older_peer_does_not_know_has_a_default(record: Record) -> None:
    optional = {n for n, field in type(record).model_fields.items() if not field.is_required()}
    known = record.model_dump_json(exclude=optional)
    assert type(record).model_validate_json(known).model_dump_json(exclude=optional) == known


def test_an_assignment_keeps_what_only_a_newer_manager_knows() -> None:
    assignment = SAMPLES[0]
    assert isinstance(assignment, Assignment)
    text = json.dumps(newer(assignment))
    assert updated(text, assignment) == text
    other = assignment.model_copy(update={"signal": Signal(seq=2, signum=2)})
    written = json.loads(updated(text, other))
    assert written["signal"] == {"seq": 2, "signum": 2}
    assert written["from_a_newer_version"] == NEWS["from_a_newer_version"]
    assert written["mounts"] == json.loads(text)["mounts"]


def test_an_assignment_of_an_older_manager_is_as_good_as_one_that_says_the_defaults() -> None:
    assignment = SAMPLES[0].model_copy(update={"signal": None, "mounts": ()})
    assert isinstance(assignment, Assignment)
    text = assignment.model_dump_json(exclude={"signal", "mounts", "hostname"})
    assert updated(text, assignment) == text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kernel_id": 1}'])
def test_an_assignment_that_is_none_is_written_anew(text: str) -> None:
    assignment = SAMPLES[0]
    assert isinstance(assignment, Assignment)
    assert updated(text, assignment) == assignment.model_dump_json()


async def test_managers_of_two_versions_do_not_undo_each_other(start: Start) -> None:
    cluster = MemoryClusterStore()
    machine = await start(cluster=lambda: cluster)
    session = await machine.started()
    key = keys.assignment("a", session.main.id)
    entry = await cluster.get(key)
    assert entry is not None
    text = json.dumps(json.loads(entry.value) | NEWS)
    revision = await cluster.put(key, text)
    await machine.started()  # the reconciler has passed
    entry = await cluster.get(key)
    assert entry is not None
    assert (entry.value, entry.revision) == (text, revision)
    await machine.manager.sessions.signal(session.id, signal.SIGINT, machine.manager.viewer)
    await eventually(lambda: machine.runtime.signals)
    entry = await cluster.get(key)
    assert entry is not None
    assert json.loads(entry.value).items() >= NEWS.items()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": PROTOCOL + 6, "oldest_protocol": PROTOCOL + 6}, "newer than 1; upgrade man"),
        ({"protocol": 0}, "older than 1; upgrade it"),
        ({"capacity": "all"}, "its report cannot be read (capacity: "),
        ({"kernels": [{"phase": "dreaming"}]}, "its report cannot be read (kernels.0."),
    ],
    ids=["newer", "older", "unreadable", "an unknown phase"],
)
async def test_an_agent_that_is_not_understood_is_refused_in_words_and_keeps_what_it_runs(
    start: Start, changes: dict[str, object], why: str
) -> None:
    live = LiveStoreOfAnotherVersion()
    machine = await start(live=lambda **_: live)
    running = await machine.started()
    live.changes = {"version": "9.0", **changes}
    manager = machine.manager
    await eventually(lambda: manager.board.refusals)
    waiting = await machine.ask_for()

    async def reason() -> str:
        return (await manager.sessions.get(waiting.id, manager.viewer)).main.status_reason

    await eventually(reason)
    told = await reason()
    assert "Agent a has version 9.0" in told
    assert f"this manager of version {__version__}" in told
    assert why in told
    (agent,) = (await read_agents(manager)).root
    assert (agent.status, agent.version) == (AgentStatus.REFUSED, "9.0")
    assert why in agent.notes[0]
    assert (await machine.until(running, Status.RUNNING)).id == running.id
    assert machine.runtime.containers
    live.changes = {}
    await machine.until_running(waiting)
    await machine.end(running)
    await machine.until_over(running)


async def test_an_agent_that_was_never_understood_is_listed(start: Start) -> None:
    live = LiveStoreOfAnotherVersion()
    live.changes = {"version": "9.0", "oldest_protocol": PROTOCOL + 1}
    machine = await start(live=lambda **_: live)
    (agent,) = (await read_agents(machine.manager)).root
    assert (agent.id, agent.status, agent.capacity) == ("a", AgentStatus.REFUSED, {})


def test_an_agent_with_another_secret_is_refused_and_holds_up_nobody() -> None:
    connection = SAMPLES[2]
    assert isinstance(connection, Connection)
    ours, theirs = Sealer(), Sealer()
    texts = {}
    for agent_id, sealer in (("a", ours), ("b", theirs)):
        kernel = KernelReport(
            kernel_id=agent_id,
            generation=1,
            phase=Phase.RUNNING,
            connection=sealer.seal(connection),
        )
        report = AgentReport(
            agent_id=agent_id, revision=1, version="1", capacity=Slots(), kernels=(kernel,)
        )
        texts[keys.report(agent_id)] = report.model_dump_json()
    reader = ReportReader(ours)
    read = reader.read(texts)
    assert reader.connection(read.accepted["a"].kernels[0]) == connection
    assert "sealed with another cluster secret" in read.refused["b"].reason
    assert reader.read(texts).accepted["a"] is read.accepted["a"]
