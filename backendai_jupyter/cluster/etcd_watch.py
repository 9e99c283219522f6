"""Follow the changes below a prefix of etcd, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pyetcd import etcdrpc

from backendai_jupyter.cluster.etcd_link import EtcdLink, Stream
from backendai_jupyter.cluster.protocols import Change
from backendai_jupyter.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

OPEN_S = 3.0
MAX_PAUSE_S = 1.0


class EtcdWatch:
    """The changes of keys from ``start`` up to ``end``, of revisions above ``after``."""

    def __init__(self, link: EtcdLink, start: bytes, end: bytes, *, after: int, cut: int) -> None:
        self._link = link
        self._range = (start, end)
        self._seen = after
        self._cut = cut  # so much of each key is the store's prefix

    async def batches(self) -> AsyncGenerator[Sequence[Change], None]:
        """Yield an empty batch once it watches, then the changes.

        Raises ``Unavailable`` if it cannot begin; once it has, it goes on by itself whatever
        becomes of the connection.
        """
        has_begun, failures = False, 0
        while True:
            try:
                async with self._link.stream("Watch.Watch") as stream:
                    await self._begin(stream)
                    if failures and has_begun:
                        log.info("%s is watched again", self._link.name)
                    if not has_begun:
                        has_begun = True
                        yield ()
                    failures = 0
                    while True:
                        changes = self._changes(await stream.read())
                        if changes:
                            yield changes
            except Unavailable as error:
                failures += 1
                # Each member is asked once, and one again after another login.
                if not has_begun and failures > self._link.size:
                    raise
                if has_begun and failures == 1:
                    log.warning("A watch is interrupted: %s", error)
            await asyncio.sleep(min(0.05 * 2**failures, MAX_PAUSE_S) if has_begun else 0)

    async def _begin(self, stream: Stream) -> None:
        start, end = self._range
        request = etcdrpc.WatchCreateRequest(
            key=start, range_end=end, start_revision=self._seen + 1, progress_notify=True
        )
        async with asyncio.timeout(OPEN_S):
            await stream.write(etcdrpc.WatchRequest(create_request=request))
            answer = await stream.read()
        if not answer.canceled and answer.header.revision < self._seen:
            raise Conflict(f"{self._link.name} has begun anew; list and watch again")
        self._changes(answer)

    def _changes(self, answer: Any) -> Sequence[Change]:
        if answer.compact_revision:
            raise Conflict(
                f"changes after revision {self._seen} are forgotten; list and watch again"
            )
        if answer.canceled:
            self._link.forget_login()
            raise Unavailable(f"{self._link.name} ended a watch: {answer.cancel_reason}")
        if not answer.created:  # its revision may be ahead of what this watch has seen
            self._seen = max(self._seen, answer.header.revision)
        return tuple(self._change(event) for event in answer.events)

    def _change(self, event: Any) -> Change:
        key = text_of(event.kv.key[self._cut :])
        is_put = event.type == event.PUT
        return Change(key, text_of(event.kv.value) if is_put else None, event.kv.mod_revision)


def text_of(raw: bytes) -> str:
    """Return what is stored; of bytes that others put there and are no text, their look."""
    return raw.decode(errors="replace")
