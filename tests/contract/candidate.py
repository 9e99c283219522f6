"""A candidate in a process of its own: ``python -m tests.contract.candidate URL KEY NAME TTL``.

It says ``leads`` or ``follows`` whenever that changes, and answers each line that it gets with
what it believes at that moment.
"""

from __future__ import annotations

import asyncio
import sys

from backendai_jupyter.cluster.leadership import Leadership
from backendai_jupyter.cluster.stores import open_cluster_store
from backendai_jupyter.supervisor import Supervisor


async def main(url: str, key: str, name: str, ttl_s: float) -> None:
    questions = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
    )
    async with open_cluster_store(url) as store:
        supervisor = Supervisor()
        leadership = Leadership(
            store, key, name, ttl_s=ttl_s, on_change=lambda: say(leadership.is_leader)
        )
        supervisor.task("leadership", leadership.run())
        while await questions.readline():
            say(leadership.is_leader)
        await supervisor.close()


def say(is_leader: bool) -> None:
    sys.stdout.write("leads\n" if is_leader else "follows\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
