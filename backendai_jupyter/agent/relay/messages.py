"""Jupyter's wire format, with nothing but the standard library.

The relay must be up within a tenth of a second, so it cannot afford to import
jupyter_client, which has the reference implementation (``jupyter_client.session``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"
_LAST_PART = 5  # the content, counted from the delimiter


def delimiter_after_route(frames: Sequence[bytes | memoryview]) -> int:
    """Return where the delimiter of a message to or from a client is.

    It is 0 where this is no whole message of Jupyter's behind the routing id of a client.
    """
    for index, frame in enumerate(frames[:-_LAST_PART]):
        if frame == DELIMITER:
            return index
    return 0


class Signer:
    """Builds and checks messages of one kernel; an empty key means unsigned, as in Jupyter."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, parts: Sequence[bytes]) -> bytes:
        """Return the signature of header, parent header, metadata and content."""
        if not self._key:
            return b""
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest().encode()

    def build(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        session: str,
        parent: bytes = b"{}",
        now: datetime | None = None,
    ) -> list[bytes]:
        """Return the frames from the delimiter on; ``parent`` is a header as it was received."""
        header = {
            "msg_id": os.urandom(16).hex(),
            "msg_type": msg_type,
            "session": session,
            "username": "kernel",
            "date": (now or datetime.now(UTC)).isoformat(),
            "version": PROTOCOL_VERSION,
        }
        parts = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
        return [DELIMITER, self.sign(parts), *parts]

    def verifies(self, signature: bytes, parts: Sequence[bytes]) -> bool:
        return hmac.compare_digest(self.sign(parts), signature)
