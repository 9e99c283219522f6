"""The queue: what waits is read for the scheduler, and told why it waits."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.records import SYSTEM, User, WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import ONE_CPU, add_user, report


@pytest.fixture
def queue(database: Database) -> QueueStore:
    return QueueStore(database)


async def placed(sessions: SessionStore, session_id: str, *, agent_id: str = "a1") -> None:
    kernel_id = (await sessions.get(session_id, SYSTEM)).main.id
    await sessions.claim(session_id, {kernel_id: agent_id}, reason="", by="scheduler", now=11.0)


async def test_what_waits_is_read_with_all_that_its_placement_depends_on(
    queue: QueueStore, agents: AgentStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    mount = Mount(source="/v", target="/home/work/d", vfolder_host="nfs")
    session = await make_session(
        priority=30, resource_group="gpu", not_before=99.5, mounts=(mount, mount)
    )
    await placed(sessions, (await make_session()).id)
    await make_session(cluster_id="elsewhere")
    gone = await make_session()
    await sessions.terminate(gone.id, SYSTEM, reason="", by="x", now=12.0)
    assert session == await sessions.get(session.id, SYSTEM)
    assert await queue.waiting("here") == (
        WaitingSession(
            id=session.id,
            owner=session.owner,
            group="gpu",
            priority=30,
            created_at=10.0,
            kernels=(
                WaitingKernel(session.main.id, "python", ONE_CPU.to_amounts(), frozenset({"nfs"})),
            ),
            not_before=99.5,
            name=session.name,
        ),
    )


async def test_a_reason_is_told_to_all_that_still_wait_and_is_no_step(
    queue: QueueStore, agents: AgentStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    first, second, third = [await make_session() for _ in range(3)]
    await placed(sessions, third.id)
    reasons = {first.id: "No agent has cpu 1 left.", second.id: "Not yet.", third.id: "late"}
    for _ in range(2):
        await queue.tell({**reasons, "no-such-id": "nothing to say it of"})
    waiting = await sessions.get(first.id, SYSTEM)
    assert waiting.status_reason == waiting.main.status_reason == "No agent has cpu 1 left."
    assert len(await sessions.history(first.id, SYSTEM)) == 1
    assert {s.id: s.status_reason for s in await queue.waiting("here")} == {
        first.id: "No agent has cpu 1 left.",
        second.id: "Not yet.",
    }
    started = await sessions.get(third.id, SYSTEM)
    assert (started.status_reason, started.main.status_reason) == ("", "")


async def test_what_an_owner_has_is_summed_over_his_kernels_by_group(
    database: Database,
    queue: QueueStore,
    agents: AgentStore,
    sessions: SessionStore,
    make_session: MakeSession,
    owner: User,
) -> None:
    await agents.record(report("a2", cpu=8, mem=8 << 30), now=1.0)
    other = await add_user(database, "ann")
    mine = [await make_session() for _ in range(3)]
    await placed(sessions, mine[0].id)
    await placed(sessions, mine[1].id, agent_id="a2")
    await sessions.move(mine[1].main.id, Status.RUNNING, reason="", by="a2", now=12.0)
    half = Slots({"cpu": "0.5"})  # type: ignore[dict-item]
    hers = await make_session(owner=other, resource_group="gpu", slots=half)
    await placed(sessions, hers.id, agent_id="a2")
    over = await make_session()
    await placed(sessions, over.id)
    await sessions.move(over.main.id, Status.ERROR, reason="", by="x", now=13.0)
    assert await queue.usage("here") == {
        "default": {owner.id: ONE_CPU + ONE_CPU},
        "gpu": {other: half},
    }
    assert await queue.usage("elsewhere") == {}
