"""A process that claims each session it is given once, and prints how many it got.

Run as ``python -m tests.unit.store.claimer URL AGENT SESSION...``.
"""

from __future__ import annotations

import asyncio
import sys

from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.errors import LostRace, NoCapacity
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore


async def claim_all(url: str, agent_id: str, session_ids: list[str]) -> int:
    database = await Database.open(url)
    sessions = SessionStore(database)
    claimed = 0
    for session_id in session_ids:
        session = await sessions.get(session_id, SYSTEM)
        try:
            placement = {session.main.id: agent_id}
            await sessions.claim(session_id, placement, reason="", by="claimer", now=20.0)
            claimed += 1
        except (NoCapacity, LostRace):
            pass
    await database.close()
    return claimed


if __name__ == "__main__":
    print(asyncio.run(claim_all(sys.argv[1], sys.argv[2], sys.argv[3:])))  # noqa: T201
