"""PostgreSQL's disk is full while a notebook computes: starts are refused, nothing else is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.cluster_remains import end_all, rows
from tests.acceptance.kernel_client import printed
from tests.acceptance.test_cluster import leftovers, run, started
from tests.acceptance.test_cluster_faults import COMPUTES, TICKS, refused, starts
from tests.acceptance.test_node_faults import opened, shows
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.postgres import PrivatePostgres
from tests.small_disk import NEEDS_ROOT, SmallDisk

pytestmark = [pytest.mark.timeout(180), NEEDS_ROOT]


@pytest.fixture
def disk(short_tmp_path: Path) -> Iterator[SmallDisk]:
    short_tmp_path.chmod(0o711)  # PostgreSQL runs as another user
    with SmallDisk.mounted_at(short_tmp_path / "pg", size_mb=160) as mounted:
        yield mounted


async def test_a_database_without_room_refuses_starts_and_ends_nothing(disk: SmallDisk) -> None:
    postgres = PrivatePostgres("synchronous_commit=on", root=disk.path)
    async with Cluster(postgres=postgres) as cluster:
        agent, server = await cluster.add_agent(), await cluster.add_server()
        kernel_id = await started(server)
        async with opened(server, kernel_id) as client:
            request = await client.execute(COMPUTES)
            messages = await client.until(shows("<4>"))
            disk.fill()
            with pytest.raises(psycopg.OperationalError):
                while True:  # until there is no room for its log, at which it gives up
                    postgres.execute(
                        "SELECT pg_logical_emit_message(false, 'a', repeat('x', 99999))"
                    )
            assert "database" in await refused(server)
            messages += await client.until_done(request, within_s=60)
        assert printed(messages) == "".join(f"<{n}>\n" for n in range(TICKS))
        disk.make_room()
        await eventually(lambda: not postgres.is_running or postgres.answers(), within_s=60)
        if not postgres.is_running:
            await postgres.start()
        await eventually(lambda: starts(server), within_s=60)
        assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
        await end_all(server)
        await eventually(lambda: leftovers(agent) == [], within_s=30)
        await eventually(lambda: rows(cluster) == [], within_s=30)
