"""Sessions of batch runs end when nobody claims them any more, and not before."""

from __future__ import annotations

from functools import partial

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.protocols import Listing
from backendai_jupyter.domain.batch import Batch
from backendai_jupyter.domain.records import SYSTEM, User
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.batch import AbandonedRuns, Claims
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.supervisor import Supervisor
from tests.helpers import eventually
from tests.unit.store.samples import new_session

AFTER_S = 30.0


class StoreThatIsAway(MemoryClusterStore):
    """Answers nothing while it is ``away``."""

    away = False

    async def list(self, prefix: str) -> Listing:
        if self.away:
            raise Unavailable("etcd is away")
        return await super().list(prefix)


class Leader:
    """The check, and a clock that the test turns."""

    def __init__(self, database: Database, cluster: MemoryClusterStore) -> None:
        self.store = SessionStore(database)
        self.clock = 0.0
        self._check = AbandonedRuns(
            "here",
            cluster=cluster,
            sessions=self.store,
            after_s=lambda: AFTER_S,
            ended=lambda: None,
            now=lambda: 1000.0,
            clock=lambda: self.clock,
        )

    async def at(self, clock: float, session_id: str) -> Status:
        """Let the time come, look, and return what has become of a session."""
        self.clock = clock
        await self._check.step()
        return (await self.store.get(session_id, SYSTEM)).status


@pytest.fixture
def cluster() -> StoreThatIsAway:
    return StoreThatIsAway()


async def test_a_session_that_nobody_claims_ends_after_a_while(
    database: Database, owner: User, cluster: StoreThatIsAway
) -> None:
    leader = Leader(database, cluster)
    session = await leader.store.create(new_session(owner=owner.id), now=1.0)
    assert await leader.at(0.0, session.id) is Status.PENDING
    assert await leader.at(AFTER_S - 1, session.id) is Status.PENDING
    assert await leader.at(AFTER_S, session.id) is Status.CANCELLED


async def test_a_session_that_servers_show_is_nobodys_run(
    database: Database, owner: User, cluster: StoreThatIsAway
) -> None:
    leader = Leader(database, cluster)
    shown = new_session(owner=owner.id, jupyter_kernel_id="a-kernel")
    session = await leader.store.create(shown, now=1.0)
    assert await leader.at(0.0, session.id) is Status.PENDING
    assert await leader.at(AFTER_S * 2, session.id) is Status.PENDING


async def test_a_batch_session_is_nobodys_run(
    database: Database, owner: User, cluster: StoreThatIsAway
) -> None:
    """F47: nobody need be there for a batch session."""
    leader = Leader(database, cluster)
    alone = new_session(owner=owner.id, batch=Batch(command=("true",)))
    session = await leader.store.create(alone, now=1.0)
    assert await leader.at(0.0, session.id) is Status.PENDING
    assert await leader.at(AFTER_S * 2, session.id) is Status.PENDING


async def test_a_claim_keeps_a_session_for_as_long_as_its_process_lives(
    database: Database, owner: User, cluster: StoreThatIsAway
) -> None:
    leader, supervisor, claims = Leader(database, cluster), Supervisor(), Claims(cluster)
    supervisor.task("claims", claims.run())
    for _ in range(2):
        claimed = await leader.store.create(new_session(owner=owner.id), now=1.0)
        await claims.add(claimed.id)
        await eventually(partial(cluster.get, keys.claim(claimed.id)))
        assert await leader.at(leader.clock, claimed.id) is Status.PENDING
        assert await leader.at(leader.clock + AFTER_S * 2, claimed.id) is Status.PENDING
    await supervisor.close()
    (session, _) = await leader.store.live("here")
    assert await leader.at(leader.clock, session.id) is Status.PENDING
    assert await leader.at(leader.clock + AFTER_S, session.id) is Status.CANCELLED


async def test_while_the_store_is_away_nobody_is_judged(
    database: Database, owner: User, cluster: StoreThatIsAway
) -> None:
    leader = Leader(database, cluster)
    session = await leader.store.create(new_session(owner=owner.id), now=1.0)
    assert await leader.at(0.0, session.id) is Status.PENDING
    cluster.away = True
    with pytest.raises(Unavailable):
        await leader.at(AFTER_S, session.id)
    cluster.away = False
    assert await leader.at(AFTER_S + 1, session.id) is Status.PENDING
    assert await leader.at(2 * AFTER_S + 1, session.id) is Status.CANCELLED
