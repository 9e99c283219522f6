"""Names for the kernels of one session that are processes of one machine.

They share its network.  A session gets 254 of the addresses that are always there, 127.x.y.1 and
so on, and each of its kernels one of them with its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from pathlib import Path

from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.domain.wire import ClusterMode, Membership
from backendai_jupyter.errors import RuntimeFailed

BLOCKS = 255 * 256  # 127.1.0 to 127.255.255; what is before is the system's
MAX_KERNELS = 254
_NO_NAMES = (
    "Kernels of one session cannot have names of their own here, because they are not confined; "
    "install bubblewrap, or use Docker."
)
_ONE_MACHINE = (
    "Kernels of one session that are processes are all on one machine; only those in containers "
    "of Docker Engines that share a swarm can be on several."
)
_TOO_MANY = f"At most {MAX_KERNELS} kernels of one session can be processes of one machine."


class LoopbackNetworks:
    """A file for each session says which block of addresses it has; see ``Networks``.

    Where a session begins to look for one depends on its id.  So agents of one machine that do
    not know each other's files are most unlikely to choose the same.
    """

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self._lock = threading.Lock()
        self.is_possible = False  # known once the runtime is open

    def modes(self) -> tuple[ClusterMode, ...]:
        return (ClusterMode.SINGLE_NODE,) if self.is_possible else ()

    async def open(self, session_id: str, membership: Membership) -> None:
        if not self.is_possible:
            raise RuntimeFailed(_NO_NAMES)
        if membership.mode is not ClusterMode.SINGLE_NODE:
            raise RuntimeFailed(_ONE_MACHINE)
        if len(membership.hosts) > MAX_KERNELS:
            raise RuntimeFailed(_TOO_MANY)
        await asyncio.to_thread(self._claim, session_id)

    async def close(self, session_id: str) -> None:
        await asyncio.to_thread(self._free, session_id)

    async def sessions(self) -> set[str]:
        return set(await asyncio.to_thread(self._claims))

    def addresses(self, spec: ContainerSpec) -> dict[str, str]:
        """Return those of all kernels of a session by their names; blocks."""
        if spec.membership is None:
            return {}
        block = self._claim(spec.session_id)
        first = f"127.{block // 256 + 1}.{block % 256}"
        return {host: f"{first}.{n}" for n, host in enumerate(spec.membership.hosts, start=1)}

    def _claim(self, session_id: str) -> int:
        """Return the block of a session, which from now on is no other's."""
        with self._lock:
            claims = self._claims()
            if (known := claims.get(session_id)) is not None:
                return known
            taken = set(claims.values())
            block = int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:8]) % BLOCKS
            while block in taken:  # there is no room for as many kernels as there are blocks
                block = (block + 1) % BLOCKS
            self._dir.mkdir(mode=0o700, exist_ok=True)
            (self._dir / session_id).write_text(str(block))
            return block

    def _free(self, session_id: str) -> None:
        with self._lock:
            (self._dir / session_id).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there are others
                self._dir.rmdir()

    def _claims(self) -> dict[str, int | None]:
        """Return the block of each session; None: its file was not written to the end."""
        claims: dict[str, int | None] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._dir.iterdir():
                text = path.read_text()
                claims[path.name] = int(text) if text.isdigit() else None
        return claims
