"""Answer with an open file, piece by piece: in flat memory, from any byte on."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

CHUNK_BYTES = 1 << 20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class FileStream:
    """A regular file, open for reading, with what is known of it; its owner closes it."""

    fd: int
    found: os.stat_result
    name: str
    as_attachment: bool = True  # else the browser may show it
    media_type: str = ""  # empty: what the name suggests

    @property
    def etag(self) -> str:
        return f'"{self.found.st_ino:x}-{self.found.st_mtime_ns:x}-{self.found.st_size:x}"'

    async def send(self, handler: RequestHandler) -> None:
        """Answer the handler's request, GET or HEAD; what it asked for with ``Range``."""
        self._set_headers(handler)
        wanted: range | None = range(self.found.st_size)
        if self._is_known_to(handler):
            handler.clear_header("Content-Type")
            handler.set_status(HTTPStatus.NOT_MODIFIED)
            wanted = None
        elif self._may_be_cut(handler):
            wanted = self._cut(handler, handler.request.headers.get("Range", ""))
        if wanted is not None:
            handler.set_header("Content-Length", len(wanted))
        try:
            if wanted and handler.request.method != "HEAD":
                await self._send(handler, wanted)
            else:
                await handler.flush()
        except StreamClosedError:  # whoever asked has gone
            return

    def _set_headers(self, handler: RequestHandler) -> None:
        kind = "attachment" if self.as_attachment else "inline"
        changed_at = datetime.fromtimestamp(int(self.found.st_mtime), UTC)
        handler.set_header("Content-Type", self.media_type or _media_type(self.name))
        handler.set_header("Content-Disposition", f"{kind}; filename*=utf-8''{quote(self.name)}")
        handler.set_header("X-Content-Type-Options", "nosniff")
        handler.set_header("Accept-Ranges", "bytes")
        handler.set_header("Etag", self.etag)
        handler.set_header("Last-Modified", changed_at)

    def _is_known_to(self, handler: RequestHandler) -> bool:
        """Whether the client has this very version already, by RFC 9110, 13.2.2."""
        tags = handler.request.headers.get("If-None-Match")
        if tags is not None:
            return tags.strip() == "*" or self.etag in re.findall(r'"[^"]*"', tags)
        since = _moment(handler.request.headers.get("If-Modified-Since", ""))
        return since is not None and int(self.found.st_mtime) <= since.timestamp()

    def _may_be_cut(self, handler: RequestHandler) -> bool:
        """Whether a range would continue what the client has: ``If-Range``."""
        condition = handler.request.headers.get("If-Range", "").strip()
        if not condition or condition.startswith('"'):
            return condition in {"", self.etag}
        at = _moment(condition)
        return at is not None and int(self.found.st_mtime) == at.timestamp()

    def _cut(self, handler: RequestHandler, asked: str) -> range | None:
        """Return the range that was asked for; None if the file has no such bytes.

        Several ranges, or none that is understood, mean the whole file.
        """
        size = self.found.st_size
        found = _RANGE.fullmatch(asked.strip())
        if found is None or found[0] == "bytes=-":
            return range(size)
        first, last = found[1], found[2]
        if first and last and int(first) > int(last):
            return range(size)
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            handler.set_status(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            handler.set_header("Content-Range", f"bytes */{size}")
            handler.set_header("Content-Length", 0)
            return None
        handler.set_status(HTTPStatus.PARTIAL_CONTENT)
        handler.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        return range(start, stop)

    async def _send(self, handler: RequestHandler, wanted: range) -> None:
        position = wanted.start
        flushed: Awaitable[None] | None = None  # the piece before goes out while one is read
        while position < wanted.stop:
            count = min(CHUNK_BYTES, wanted.stop - position)
            chunk = await asyncio.to_thread(os.pread, self.fd, count, position)
            if flushed is not None:
                await flushed
            if not chunk:  # it has been cut off meanwhile: a cut answer is the honest one
                handler.detach().close()
                return
            handler.write(chunk)
            flushed = handler.flush()
            position += len(chunk)
        if flushed is not None:
            await flushed


def _media_type(name: str) -> str:
    media_type, encoding = mimetypes.guess_type(name)
    return "application/octet-stream" if media_type is None or encoding else media_type


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
