"""jupyter_server's manager of files, spread over the directories of a user's folders."""

# jupyter_server's managers carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import nbformat
from jupyter_core.paths import is_hidden
from jupyter_server import _tz as tz
from jupyter_server.files.handlers import FilesHandler
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import Type, Unicode, default

from backendai_jupyter.contents.tree import Place, Tree, is_speakable
from backendai_jupyter.contents.writing import hand_over, replacing
from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.errors import BackendError
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.web.base import status_of

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]

# What the call in progress sees, so that one request asks for the folders only once.
_TREE: ContextVar[Tree | None] = ContextVar("backendai_tree", default=None)


def refreshed(method: Method[P, T]) -> Method[P, T]:
    """Show ``method`` the folders as they are now, and turn its errors of ours into HTTP's."""

    @functools.wraps(method)
    async def wrapper(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        token = None
        try:
            if _TREE.get() is None:
                token = _TREE.set(await self.read_tree())
            return await method(self, *args, **kwargs)
        except BackendError as error:
            raise _as_http(error) from error
        finally:
            if token is not None:
                _TREE.reset(token)

    return wrapper


class VFolderFiles(AsyncLargeFileManager):
    """Reads and writes files by contents paths; what may be done at the root, subclasses say.

    ``locate`` is the one way from a contents path to a folder and a path in it, and
    ``_get_os_path`` the one way from there to the disk.  It refuses symlinks that lead out of
    their folder, but a kernel that swaps one in between this check and the use of the path
    is not stopped.
    """

    parent: Any

    # As in the base classes, but not for configuration: each would open a way around us.
    root_dir = Unicode(help="The directory of all users' folders.")
    files_handler_class = Type(FilesHandler, klass=web.RequestHandler)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        Path(self.root_dir).mkdir(parents=True, exist_ok=True)
        backend = self.backend
        folders = backend.call_blocking(backend.manager.vfolders.list(self._viewer))
        self._latest = self._tree_of(folders)

    @default("root_dir")
    def _below_data_dir(self) -> str:
        return str(Path(self.backend.settings.data_dir) / "vfolders")

    @property
    def backend(self) -> Backend:
        return BACKENDS.backend

    @property
    def tree(self) -> Tree:
        """The folders as the call in progress knows them, else as the last one did."""
        return _TREE.get() or self._latest

    async def read_tree(self) -> Tree:
        """Ask the manager for the folders of the viewer."""
        backend = self.backend
        folders = await backend.call(backend.manager.vfolders.list(self._viewer))
        self._latest = self._tree_of(folders)
        return self._latest

    def locate(self, path: str) -> Place | None:
        """Return the folder and the path in it that ``path`` means; None for the root."""
        try:
            return self.tree.locate(path)
        except BackendError as error:
            raise _as_http(error) from error

    def exists(self, path: str) -> bool:  # type: ignore[override] # the base class calls it so
        return self._is(path, os.path.lexists)

    @refreshed
    async def dir_exists(self, path: str) -> bool:
        return self._is(path, os.path.isdir)

    @refreshed
    async def file_exists(self, path: str) -> bool:
        return self._is(path, os.path.isfile)

    @refreshed
    async def is_hidden(self, path: str) -> bool:
        return self._is(path, lambda found: bool(is_hidden(found, self.root_dir)))

    def _is(self, path: str, holds: Callable[[str], bool]) -> bool:
        """Whether something holds for a path; never for one where there can be nothing."""
        try:
            return holds(self._get_os_path(path))
        except web.HTTPError:
            return False

    def _get_os_path(self, path: str) -> str:
        place = self.locate(path)
        try:
            return self.root_dir if place is None else place.on_disk()
        except BackendError as error:
            raise _as_http(error) from error

    async def _hand_over(self, path: str) -> None:
        """Let the folder's owner have what has been made at ``path``."""
        place = self.locate(path)
        if place is not None:
            await asyncio.to_thread(hand_over, place.on_disk(), place.folder.path)

    def _base_model(self, path: str) -> dict[str, Any]:
        model: dict[str, Any] = super()._base_model(path)
        place = self.locate(path)
        if place is not None and not place.inside:
            model["created"] = tz.utcfromtimestamp(place.folder.created_at)
        return model

    async def _dir_model(self, path: str, content: bool = True) -> dict[str, Any]:
        model: dict[str, Any] = await super()._dir_model(path, content=False)
        if content:
            place = self.locate(path)
            names = list(self.tree.folders)
            if place is not None:
                names = await asyncio.to_thread(_names_in, place.on_disk())
            entries = [await self._entry(path, name) for name in names]
            model.update(format="json", content=[entry for entry in entries if entry])
        return model

    async def _entry(self, directory: str, name: str) -> dict[str, Any] | None:
        """Return the model of a directory's entry, or None for one that is not shown."""
        if not self.should_list(name) or (name.startswith(".") and not self.allow_hidden):
            return None
        try:
            entry: dict[str, Any] = await self.get(f"{directory}/{name}", content=False)
        except web.HTTPError as error:
            if error.status_code != 404:
                raise
            return None  # gone meanwhile, or a link out of the folder
        except OSError as error:
            self.log.warning("Not listed: %s", error)
            return None
        return entry

    async def _read_notebook(
        self,
        os_path: str,
        as_version: int = 4,
        capture_validation_error: Any = None,
        raw: bool = False,
    ) -> Any:
        """Read a notebook; unlike the base class, never from a leftover of another name."""
        read = await self._read_file(os_path, "text", raw=True)
        reads = functools.partial(
            nbformat.reads, as_version=as_version, capture_validation_error=capture_validation_error
        )
        try:
            notebook = await asyncio.to_thread(reads, read[0])
        except Exception as error:  # nbformat raises whatever its input provokes
            name = self.tree.path_of(os_path)
            raise web.HTTPError(400, f"Unreadable Notebook: {name} {error!r}") from error
        return (notebook, read[-1]) if raw else notebook

    @contextlib.contextmanager
    def atomic_writing(self, os_path: str, text: bool = True, **kwargs: Any) -> Iterator[IO[Any]]:
        target = os.path.realpath(os_path)
        folder = self.tree.folder_of(os_path).path
        with self.perm_to_403(os_path):
            if self.use_atomic_writing and os.access(Path(target).parent, os.W_OK):
                if text:
                    kwargs = {"encoding": "utf-8", "newline": "\n", **kwargs}
                with replacing(target, folder, text=text, **kwargs) as file:
                    yield file
                return
            with super().atomic_writing(target, text=text, **kwargs) as file:
                yield file
            hand_over(target, folder)

    @contextlib.contextmanager
    def perm_to_403(self, os_path: str = "") -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            name = self.tree.path_of(os_path or str(error.filename or ""))
            raise web.HTTPError(403, f"Permission denied: {name}") from error
        except BackendError as error:
            raise _as_http(error) from error

    def _tree_of(self, folders: Iterable[VFolder]) -> Tree:
        return Tree(f for f in folders if self.allow_hidden or not f.name.startswith("."))

    @property
    def _viewer(self) -> Viewer:
        return self.backend.manager.viewer


def show(tree: Tree) -> None:
    """Let the rest of the call in progress see these folders."""
    _TREE.set(tree)


def _names_in(directory: str) -> list[str]:
    """Return what may be shown of a directory: no pipes or sockets, and no unspeakable names."""
    with os.scandir(directory) as entries:
        return [
            entry.name
            for entry in entries
            if (entry.is_symlink() or entry.is_dir() or entry.is_file())
            and is_speakable(entry.name)
        ]


def _as_http(error: BackendError) -> web.HTTPError:
    return web.HTTPError(status_of(error), str(error))
