"""The contents manager: what people may do in Jupyter's file browser, whose root is special."""

# jupyter_server's managers carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import Bool, default, validate

from backendai_jupyter.contents.checkpoints import VFolderCheckpoints
from backendai_jupyter.contents.files import VFolderFiles, refreshed, show
from backendai_jupyter.contents.tree import Tree, split
from backendai_jupyter.manager.vfolders import HOME


class VFolderContentsManager(VFolderFiles):
    """The root lists the viewer's folders and holds nothing else.

    What is made at the root without a name goes into the first folder, because JupyterLab's
    launcher makes notebooks wherever its file browser happens to be.
    """

    delete_to_trash = Bool(False)  # not for configuration: the trash would be the server's own

    @default("checkpoints_class")
    def _outside_of_folders(self) -> type[VFolderCheckpoints]:
        return VFolderCheckpoints

    @default("always_delete_dir")
    def _as_people_expect(self) -> bool:
        return True  # JupyterLab asks before; the base class only fills a trash unasked

    @default("preferred_dir")
    def _first_folder(self) -> str:
        return next(iter(self.tree.folders), "")

    @validate("preferred_dir")
    def _validate_preferred_dir(self, proposal: Any) -> str:
        return "/".join(split(proposal.value))

    get = refreshed(AsyncLargeFileManager.get)
    get_kernel_path = refreshed(AsyncLargeFileManager.get_kernel_path)
    trust_notebook = refreshed(AsyncLargeFileManager.trust_notebook)
    update = refreshed(AsyncLargeFileManager.update)
    rename = refreshed(AsyncLargeFileManager.rename)
    delete = refreshed(AsyncLargeFileManager.delete)
    create_checkpoint = refreshed(AsyncLargeFileManager.create_checkpoint)
    restore_checkpoint = refreshed(AsyncLargeFileManager.restore_checkpoint)
    list_checkpoints = refreshed(AsyncLargeFileManager.list_checkpoints)
    delete_checkpoint = refreshed(AsyncLargeFileManager.delete_checkpoint)

    async def read_tree(self) -> Tree:
        tree = await super().read_tree()
        if self.preferred_dir.partition("/")[0] not in tree.folders:
            self.preferred_dir = next(iter(tree.folders), "")
        return tree

    def host_directory(self, path: str) -> str:
        """Return the directory of this host nearest to ``path``: a local kernel works there."""
        names = path.strip("/").split("/")
        for end in range(len(names), 0, -1):
            nearer = "/".join(names[:end])
            if nearer and self._is(nearer, os.path.isdir):
                return self._get_os_path(nearer)
        return next((folder.path for folder in self.tree.folders.values()), self.root_dir)

    @refreshed
    async def resolve_path(self, path: str) -> str | None:  # type: ignore[override] # awaited
        """Return where the file browser has what a kernel calls ``path``."""
        for home in (f"{HOME}/", "~/"):
            path = path.removeprefix(home)
        return path.strip("/") if self.exists(path) else None

    def info_string(self) -> str:
        return f"Serving virtual folders from {self.root_dir}"

    @refreshed
    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file or make a directory; a directory at the root is a virtual folder."""
        names = split(path)
        if len(names) == 1 and model.get("type") == "directory":
            return await self._save_folder(model, names[0])
        if len(names) < 2:
            raise web.HTTPError(403, "There are only folders at the top; save in one of them.")
        saved: dict[str, Any] = await super().save(model, path)
        return saved

    @refreshed
    async def new_untitled(self, path: str = "", type: str = "", ext: str = "") -> dict[str, Any]:
        """Make something whose name we choose; no folder at the root: in the first folder."""
        if not split(path) and type != "directory":
            path = self.tree.first().name
        created: dict[str, Any] = await super().new_untitled(path, type, ext)
        return created

    @refreshed
    async def new(self, model: dict[str, Any] | None = None, path: str = "") -> dict[str, Any]:
        if not split(path):
            model = model or {}
            notebook = model.get("type") == "notebook"
            name = f"{self.untitled_notebook}.ipynb" if notebook else self.untitled_file
            folder = self.tree.first().name
            path = f"{folder}/{await self.increment_filename(name, folder)}"
        created: dict[str, Any] = await super().new(model, path)
        return created

    @refreshed
    async def copy(self, from_path: str, to_path: str | None = None) -> dict[str, Any]:
        """Copy a file or directory; to the root means into the first folder."""
        names = _names_inside(from_path, "copied")
        if to_path is None:
            to_path = "/".join(names[:-1])
        elif not split(to_path):
            to_path = self.tree.first().name
        copied: dict[str, Any] = await super().copy("/".join(names), to_path)
        return copied

    @refreshed
    async def delete_file(self, path: str) -> None:
        _names_inside(path, "deleted")
        os_path = self._get_os_path(path)
        if not self._is(path, os.path.islink):
            await super().delete_file(path)
            return
        with self.perm_to_403(os_path):
            # The link and not what it leads to, on which the base class would fail.
            await asyncio.to_thread(os.unlink, os_path)

    @refreshed
    async def rename_file(self, old_path: str, new_path: str) -> None:
        old, new = split(old_path), split(new_path)
        if len(old) == len(new) == 1:
            backend = self.backend
            await backend.call(backend.manager.vfolders.rename(old[0], new[0], self._viewer))
            show(await self.read_tree())
            return
        _names_inside(old_path, "renamed")
        if len(new) < 2:
            raise web.HTTPError(403, "There are only folders at the top; move it into one of them.")
        await super().rename_file(old_path, new_path)
        await self._hand_over(new_path)

    async def _save_folder(self, model: dict[str, Any], name: str) -> dict[str, Any]:
        """Create a virtual folder, unless there is one of that name."""
        if name.startswith(".") and not self.allow_hidden:
            raise web.HTTPError(400, f"{name!r} would be hidden; choose a name without the dot.")
        if not self.exists(name):
            self.run_pre_save_hooks(model=model, path=name)
            backend = self.backend
            created = await backend.call(backend.manager.vfolders.create(name, self._viewer))
            name = created.name
            show(await self.read_tree())
            self.emit(data={"action": "save", "path": name})
        found: dict[str, Any] = await self.get(name, content=False)
        return found

    async def _save_directory(self, os_path: str, model: dict[str, Any], path: str = "") -> None:
        await super()._save_directory(os_path, model, path)
        await self._hand_over(path)

    async def _copy_dir(
        self, from_path: str, to_path_original: str, to_name: str, to_path: str
    ) -> dict[str, Any]:
        if not await self.dir_exists(to_path_original):
            raise web.HTTPError(404, f"There is no directory {to_path_original!r} to copy into.")
        source, target = self._get_os_path(from_path), self._get_os_path(to_path)
        try:
            # Links are copied as links: what they lead to need not be inside the folder.
            await asyncio.to_thread(shutil.copytree, source, target, symlinks=True)
        except OSError as error:
            self.log.error("Copying %s: %s", source, error)
            raise web.HTTPError(400, f"Could not copy all of {from_path!r}.") from error
        finally:
            if self.exists(to_path):
                await self._hand_over(to_path)
        copied: dict[str, Any] = await self.get(to_path, content=False)
        self.emit(data={"action": "copy", "path": to_path, "source_path": from_path})
        return copied


def _names_inside(path: str, done: str) -> tuple[str, ...]:
    """Return the names in a path that is inside a folder; others are not to be changed."""
    names = split(path)
    if len(names) < 2:
        what = f"The folder {names[0]!r} as a whole" if names else "The list of folders"
        raise web.HTTPError(403, f"{what} cannot be {done} in the file browser yet.")
    return names
