"""As whom the contents manager acts: the viewer, his folders, and what goes wrong, as HTTP."""

from __future__ import annotations

import functools
import time
import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from tornado import web

from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.errors import BackendError, Conflict, Refused
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.web.base import status_of

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]

# Asking the manager costs a millisecond, a third of what reading a small file takes.  It tells
# of every change that this server makes; those of other processes are seen so much later.
MAX_AGE_S = 1.0

# What the call in progress sees, so that one request asks for the folders only once.
_HOME: ContextVar[list[Home] | None] = ContextVar("backendai_home", default=None)


def viewed(method: Method[P, T]) -> Method[P, T]:
    """Show ``method`` the folders as they are now, and turn its errors of ours into HTTP's."""

    @functools.wraps(method)
    async def wrapper(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if _HOME.get() is not None:  # called by another method, which will answer for it
            return await method(self, *args, **kwargs)
        token = _HOME.set([])
        try:
            return await method(self, *args, **kwargs)
        except BackendError as error:
            raise web.HTTPError(status_of(error), str(error)) from error
        finally:
            _HOME.reset(token)

    return wrapper


@dataclass(frozen=True, slots=True)
class _Seen:
    """The folders of one viewer when they were last read."""

    home: Home
    viewer: Viewer
    version: int  # of ``VFolders`` before it was asked
    at: float

    def is_current(self, viewer: Viewer, version: int) -> bool:
        is_young = time.monotonic() - self.at <= MAX_AGE_S
        return is_young and (self.viewer, self.version) == (viewer, version)


class Viewing:
    """What every part of the contents manager knows of its viewer."""

    allow_hidden: bool
    preferred_dir: str
    _seen: _Seen | None = None

    @property
    def backend(self) -> Backend:
        return BACKENDS.backend

    @property
    def vfolders(self) -> VFolders:
        return self.backend.manager.vfolders

    @property
    def viewer(self) -> Viewer:
        return self.backend.manager.viewer

    @property
    def latest(self) -> Home:
        """The folders as the last call saw them, for what cannot wait."""
        viewer = self.viewer
        if self._seen is None or self._seen.viewer != viewer:
            return self.backend.call_blocking(self.vfolders.home(viewer))
        return self._seen.home

    async def home(self, names: Sequence[str] = ()) -> Home:
        """Return the folders as the call in progress sees them.

        With the ``names`` of a path: no folder is missed that another process has just made.
        """
        seen = _HOME.get()
        if seen:
            return seen[0]
        viewer, version = self.viewer, self.vfolders.version
        last = self._seen
        if last is None or not last.is_current(viewer, version) or not last.home.has(names):
            read = await self._manage(self.vfolders.home(viewer))
            last = self._seen = _Seen(read, viewer, version, time.monotonic())
        home = last.home
        if seen is not None:
            seen.append(home)
        if self.preferred_dir.partition("/")[0] not in home.folders:
            self.preferred_dir = next(iter(home.folders), "")
        return home

    def forget(self) -> None:
        """Ask for the folders anew: the call in progress has changed them, or must be certain."""
        self._seen = None
        seen = _HOME.get()
        if seen is not None:
            seen.clear()

    def shown(self, home: Home) -> tuple[VFolder, ...]:
        """Return those of the folders that are not hidden."""
        return tuple(
            folder
            for folder in home.folders.values()
            if self.allow_hidden or not folder.name.startswith(".")
        )

    async def _first(self) -> str:
        """Return the folder for what is made at the root."""
        for folder in (await self.home()).folders.values():
            if not folder.readonly and (self.allow_hidden or not folder.name.startswith(".")):
                return folder.name
        raise Conflict("You have no folder yet. Create one first: a new directory at the top.")

    async def _rename_folder(self, name: str, new_name: str) -> None:
        """Rename a folder, or refuse to: a ``Conflict`` shall mean that the name is taken.

        JupyterLab answers every conflict with the question whether to overwrite.
        """
        try:
            await self._manage(self.vfolders.change(name, self.viewer, name=new_name))
        except Conflict as error:
            if unicodedata.normalize("NFC", new_name) in (await self.home()).folders:
                raise
            raise Refused(str(error)) from error
        self.forget()

    async def _manage(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call to the manager where the manager lives."""
        return await self.backend.call(work)
