"""What a path on a command line means in folders: kernels see no other files of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backendai_jupyter.cli.folders import Folders
from backendai_jupyter.domain.vfolders import VFolderStatus
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.web.vfolder_models import VFolderFilter


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of folders on this machine, by the folders' names."""

    directories: Mapping[str, Path]

    @classmethod
    async def of(cls, folders: Folders) -> Places:
        hosts = {host.name: Path(host.path) for host in (await folders.hosts()).root}
        ready = await folders.list(VFolderFilter(status=[VFolderStatus.READY]))
        directories = {
            folder.name: hosts[folder.host] / folder.owner / folder.id
            for folder in ready.root
            if folder.host in hosts
        }
        return cls({name: _real(directory) for name, directory in directories.items()})

    def of_notebook(self, text: str) -> str:
        """Return ``folder/path`` of a notebook; raises ``InvalidInput`` that says what to do."""
        found = self._of_file(text) or self._named(text)
        if found is None:
            where = "there is no such file, and" if not Path(text).exists() else "it"
            raise InvalidInput(
                "NOTEBOOK",
                f"{text!r}: {where} lies in no folder, and kernels see nothing else. Give "
                "--upload FOLDER to copy it into one, or write FOLDER/PATH of one that is there",
            )
        return found

    def of_output(self, text: str, *, beside: str) -> str:
        """Return ``folder/path`` of what is to be written; a mere name is ``beside`` another."""
        if "/" not in text and self._directory_of(Path.cwd()) is None:
            return str(PurePosixPath(beside).parent / text)
        found = self._of_file(text) or self._named(text)
        if found is None:
            raise InvalidInput("--out", f"{text!r} lies in no folder; write FOLDER/PATH or a name")
        return found

    def _of_file(self, text: str) -> str | None:
        path = _real(Path(text))
        name = self._directory_of(path)
        return None if name is None else str(name / path.relative_to(self.directories[name.name]))

    def _directory_of(self, path: Path) -> PurePosixPath | None:
        real = _real(path)
        for name, directory in self.directories.items():
            if real.is_relative_to(directory):
                return PurePosixPath(name)
        return None

    def _named(self, text: str) -> str | None:
        names = PurePosixPath(text).parts
        return str(PurePosixPath(text)) if len(names) > 1 and names[0] in self.directories else None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
