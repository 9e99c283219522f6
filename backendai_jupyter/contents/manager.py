"""The contents manager: what people may do in Jupyter's file browser, whose root is special."""

# jupyter_server's managers carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

from jupyter_server.services.contents.manager import AsyncContentsManager, copy_pat
from tornado import web
from traitlets import Bool, Type, Unicode, default, validate

from backendai_jupyter.contents import models, operations
from backendai_jupyter.contents.checkpoints import VFolderCheckpoints
from backendai_jupyter.contents.downloads import FilesHandler
from backendai_jupyter.contents.models import Model
from backendai_jupyter.contents.notebooks import Notebooks, decoded
from backendai_jupyter.contents.paths import is_hidden, split
from backendai_jupyter.contents.uploads import ChunkedUploads
from backendai_jupyter.contents.viewing import Viewing, viewed
from backendai_jupyter.errors import BackendError, InvalidInput, NotFound, Refused
from backendai_jupyter.storage.beneath import Home

HOME_PREFIXES = ("/home/work/", "~/")


class VFolderContentsManager(Viewing, AsyncContentsManager):
    """The root lists the viewer's folders and holds nothing else.

    What is made at the root without a name goes into the first folder, because JupyterLab's
    launcher makes notebooks wherever its file browser happens to be.
    """

    # As in the base class, but not for configuration: each would open a way around us.
    root_dir = Unicode("/home/work", help="What kernels call the list of folders.")
    files_handler_class = Type(FilesHandler, klass=web.RequestHandler)
    delete_to_trash = Bool(False, help="Whether files, and not only folders, have a trash.")

    hash_algorithm = Unicode("sha256", help="Algorithm of the hashes in models.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._uploads = ChunkedUploads()
        self._notebooks = Notebooks(self)

    @default("checkpoints_class")
    def _outside_of_folders(self) -> type[VFolderCheckpoints]:
        return VFolderCheckpoints

    @default("preferred_dir")
    def _first_folder(self) -> str:
        return next(iter(self.latest.folders), "")

    @validate("preferred_dir")
    def _validate_preferred_dir(self, proposal: Any) -> str:
        return "/".join(split(proposal.value))

    async def close(self) -> None:
        """Give up uploads under way, and whatever else is open."""
        await asyncio.to_thread(self._uploads.close)
        await self._notebooks.close()

    def info_string(self) -> str:
        return "Serving virtual folders"

    def host_directory(self, path: str) -> str:
        """Return the directory of this host nearest to ``path``: a local kernel works there."""
        names = path.strip("/").split("/")
        for end in range(len(names), 0, -1):
            if (directory := operations.directory_on_host(self.latest, names[:end])) is not None:
                return directory
        first = next((folder.path for folder in self.latest.folders.values()), None)
        return first or str(Path.home())

    @viewed
    async def resolve_path(self, path: str) -> str | None:
        """Return where the file browser has what a kernel calls ``path``."""
        for prefix in HOME_PREFIXES:
            path = path.removeprefix(prefix)
        path = path.strip("/")
        return path if await self.exists(path) else None

    async def is_hidden(self, path: str) -> bool:
        try:
            return is_hidden(split(path))
        except NotFound:
            return False

    async def dir_exists(self, path: str) -> bool:
        return await self._kind(path) == stat.S_IFDIR

    async def file_exists(self, path: str) -> bool:
        return await self._kind(path) == stat.S_IFREG

    async def exists(self, path: str) -> bool:
        return await self._kind(path) in {stat.S_IFREG, stat.S_IFDIR}

    @viewed
    async def _kind(self, path: str) -> int:
        """Return the type bits of what is there; 0 where nothing is or may be seen."""
        try:
            names = split(path)
            if not names:
                return stat.S_IFDIR
            found = await asyncio.to_thread(operations.status, await self.home(names), names)
        except BackendError:
            return 0
        return stat.S_IFMT(found.st_mode)

    @viewed
    async def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        require_hash: bool = False,
    ) -> Model:
        """Return the model of a file or directory."""
        names = split(path)
        if not names:
            self.forget()  # who looks at the list sees what another process has just made
        home = await self.home(names)
        if is_hidden(names) and not self.allow_hidden:
            raise NotFound(f"There is no {path.strip('/')!r}.")
        if not names:
            model = await asyncio.to_thread(
                models.root_model, self.shown(home), content=bool(content)
            )
        else:
            model = await self._notebooks.get(
                home, names, content=content, kind=type, format=format, hashed=require_hash
            )
        if type is not None and model["type"] != type and "directory" in {type, model["type"]}:
            raise InvalidInput("type", f"{model['path']!r} is a {model['type']}, not a {type}")
        self.emit(data={"action": "get", "path": model["path"]})
        return model

    @viewed
    async def open_file(self, path: str) -> int:
        """Return a descriptor of a file, to be read and closed."""
        names = split(path)
        if is_hidden(names) and not self.allow_hidden:
            raise NotFound(f"There is no {path.strip('/')!r}.")
        return await asyncio.to_thread(operations.open_file, await self.home(names), names)

    @viewed
    async def save(self, model: Model, path: str = "") -> Model:
        """Save a file or make a directory; a directory at the root is a virtual folder."""
        names, kind, chunk = split(path), model.get("type"), model.get("chunk")
        self._check_visible(names)
        if kind not in {"file", "notebook", "directory"}:
            raise InvalidInput("type", f"{kind!r} is no type of 'file', 'notebook', 'directory'")
        if kind == "directory":
            return await self._save_directory(model, names)
        if len(names) < 2:
            raise Refused("There are only folders at the top; save in one of them.")
        path = "/".join(names)
        if chunk is None or chunk == 1:
            self.run_pre_save_hooks(model=model, path=path)
        home = await self.home(names)
        if chunk is not None:
            saved = await self._save_chunk(home, model, names)
        else:
            saved = await self._notebooks.save(home, model, names)
        if chunk in {None, -1}:
            await self._after_saving(home, saved, names)
        return saved

    @viewed
    async def new_untitled(self, path: str = "", type: str = "", ext: str = "") -> Model:
        """Make something whose name we choose; no folder at the root: in the first folder."""
        if not split(path) and type != "directory":
            path = await self._first()
        created: Model = await super().new_untitled(path, type, ext)
        return created

    @viewed
    async def new(self, model: Model | None = None, path: str = "") -> Model:
        if not split(path):
            model = model or {}
            notebook = model.get("type") == "notebook"
            name = f"{self.untitled_notebook}.ipynb" if notebook else self.untitled_file
            folder = await self._first()
            path = f"{folder}/{await self.increment_filename(name, folder)}"
        created: Model = await super().new(model, path)
        return created

    @viewed
    async def update(self, model: Model, path: str) -> Model:
        """Rename what is at ``path`` to the path in the model."""
        new_path = model.get("path", path)
        if not isinstance(new_path, str):
            raise InvalidInput("path", "expected a string")
        updated: Model = await super().update({"path": new_path}, path)
        return updated

    @viewed
    async def rename_file(self, old_path: str, new_path: str) -> None:
        old, new = split(old_path), split(new_path)
        self._check_visible(old)
        self._check_visible(new)
        if old == new:
            return
        if len(old) == len(new) == 1:
            await self._rename_folder(old[0], new[0])
        elif len(old) < 2:
            raise Refused("A folder stays at the top; it can be copied into another one.")
        elif len(new) < 2:
            raise Refused("There are only folders at the top; move it into one of them.")
        else:
            await asyncio.to_thread(operations.move, await self.home(), old, new)

    @viewed
    async def delete(self, path: str) -> None:
        """Delete a file or directory with its checkpoints; a folder goes to the trash."""
        if not split(path):
            raise Refused("The list of folders cannot be deleted.")
        await super().delete(path)

    @viewed
    async def delete_file(self, path: str) -> None:
        names = split(path)
        self._check_visible(names)
        if len(names) == 1:
            await self._manage(self.vfolders.trash(names[0], self.viewer))
            self.forget()
        else:
            await asyncio.to_thread(operations.remove, await self.home(names), names)

    @viewed
    async def copy(self, from_path: str, to_path: str | None = None) -> Model:
        """Copy a file, a directory or a folder; a directory copied to the root is a folder.

        ``to_path`` is a directory to copy into, under a name that is free there, or the path
        of the copy; without it the copy goes beside its source.
        """
        source = split(from_path)
        if not source:
            raise Refused("The list of folders cannot be copied.")
        self._check_visible(source)
        target = source[:-1] if to_path is None else split(to_path)
        is_directory = await self.dir_exists(from_path)
        if not target and not is_directory:
            target = (await self._first(),)
        if await self.dir_exists("/".join(target)):
            name = copy_pat.sub(".", source[-1])
            free = await self.increment_filename(name, "/".join(target), insert="-Copy")
            target = (*target, free)
        self._check_visible(target)
        if len(target) == 1:
            await self._copy_to_folder(source, target[0])
        else:
            await asyncio.to_thread(operations.copy, await self.home(), source, target)
        copied = await self.get("/".join(target), content=False)
        self.emit(data={"action": "copy", "path": copied["path"], "source_path": "/".join(source)})
        return copied

    @viewed
    async def trust_notebook(self, path: str) -> None:
        await self._notebooks.trust(await self.home(), split(path))

    create_checkpoint = viewed(AsyncContentsManager.create_checkpoint)
    restore_checkpoint = viewed(AsyncContentsManager.restore_checkpoint)
    list_checkpoints = viewed(AsyncContentsManager.list_checkpoints)
    delete_checkpoint = viewed(AsyncContentsManager.delete_checkpoint)
    rename = viewed(AsyncContentsManager.rename)

    @viewed
    async def get_kernel_path(self, path: str, model: Model | None = None) -> str:
        """Return the directory in which a kernel for ``path`` works."""
        names = split(path)
        return "/".join(names if await self.dir_exists(path) else names[:-1])

    async def _save_directory(self, model: Model, names: tuple[str, ...]) -> Model:
        path = "/".join(names)
        if not await self.dir_exists(path):
            self.run_pre_save_hooks(model=model, path=path)
            if len(names) == 1:
                created = await self._manage(self.vfolders.create(names[0], self.viewer))
                path = created.name
                self.forget()
            else:
                await asyncio.to_thread(operations.make_directory, await self.home(names), names)
            self.emit(data={"action": "save", "path": path})
        return await self.get(path, content=False)

    async def _save_chunk(self, home: Home, model: Model, names: tuple[str, ...]) -> Model:
        chunk = model["chunk"]
        if model["type"] != "file" or not isinstance(chunk, int) or isinstance(chunk, bool):
            raise InvalidInput("chunk", "only files come in chunks, which have numbers")
        data = await decoded(model)
        key = (self.viewer, names)
        return await asyncio.to_thread(
            operations.add_chunk, self._uploads, home, names, key, chunk, data
        )

    async def _after_saving(self, home: Home, saved: Model, names: tuple[str, ...]) -> None:
        path = "/".join(names)
        if saved["type"] == "notebook" and not await self.list_checkpoints(path):
            await self.create_checkpoint(path)  # JupyterLab expects that there is one
        if self.post_save_hook is not None or self._post_save_hooks:
            os_path = await asyncio.to_thread(operations.path_on_host, home, names)
            self.run_post_save_hooks(model=saved, os_path=os_path)
        self.emit(data={"action": "save", "path": path})

    async def _copy_to_folder(self, source: tuple[str, ...], name: str) -> None:
        """Make a new folder with all that is in a directory, or nothing at all."""
        folder = await self._manage(self.vfolders.create(name, self.viewer))
        self.forget()
        try:
            await asyncio.to_thread(operations.fill, await self.home(), source, (folder.name,))
        except BackendError:
            await self._manage(self.vfolders.trash(folder.id, self.viewer))
            await self._manage(self.vfolders.purge(folder.id, self.viewer))
            self.forget()
            raise

    def _check_visible(self, names: tuple[str, ...]) -> None:
        if is_hidden(names) and not self.allow_hidden:
            name = "/".join(names)
            raise InvalidInput("path", f"{name!r} would be hidden; choose a name without the dot")
