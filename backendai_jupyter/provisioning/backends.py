"""Which backend a provisioner uses: the server's own, else one embedded for as long as needed."""

from __future__ import annotations

import asyncio
import threading

from traitlets.config import Config

from backendai_jupyter.config import load_files
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.backend import Backend


class Backends:
    """The backend of this process.

    A server sets up its own and keeps it (``serve``).  Without one, the first kernel starts
    an embedded backend and the end of the last one stops it, so that a batch run leaves
    nothing behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        self._users = 0
        self._serving = False

    def serve(self, backend: Backend | None) -> None:
        """Use ``backend`` for all kernels from now on; None: the server is going down."""
        with self._lock:
            self._backend, self._users = backend, 0
            self._serving = backend is not None

    @property
    def backend(self) -> Backend:
        """The backend of this process; raises ``Unavailable`` when there is none."""
        backend = self._backend
        if backend is None:
            raise Unavailable("No Backend.AI backend runs in this process; is its server stopping?")
        return backend

    @property
    def serving(self) -> bool:
        """Whether a server in this process provides the backend."""
        return self._serving

    async def acquire(self, config: Config) -> Backend:
        """Return the backend, starting it if there is none; pair it with ``release``."""
        return await asyncio.to_thread(self._acquire, config)

    async def release(self, backend: Backend) -> None:
        """Give the backend back; the last one stops it, unless a server keeps it."""
        await asyncio.to_thread(self._release, backend)

    def _acquire(self, config: Config) -> Backend:
        with self._lock:
            if self._backend is None:
                merged = load_files()
                merged.merge(config)
                backend = Backend(merged)
                backend.start()
                self._backend = backend
            self._users += 1
            return self._backend

    def _release(self, backend: Backend) -> None:
        with self._lock:
            if backend is not self._backend or self._serving:
                return
            self._users -= 1
            if self._users == 0:
                self._backend = None
                backend.stop()


BACKENDS = Backends()
