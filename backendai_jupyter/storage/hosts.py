"""A vfolder host: a mount point, at the same path on every node, that holds folders.

::

    {root}/{user id}/{folder id}/        one folder; kernels see nothing but this
    {root}/.backendai/                   the managers' own, mode 0700
        host.json                        the marker: which host this is, wherever it is mounted
        staging/                         what is being written, until it is complete
        uploads/                         uploads that may be resumed
        checkpoints/{folder id}/         Jupyter's checkpoints

The marker proves that two nodes mean the same storage: a mount point that is missing, or
another disk mounted there, has no marker or one with another id.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backendai_jupyter.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWN = ".backendai"
_MARKER = "host.json"


@dataclass(frozen=True, slots=True)
class Space:
    """How full the file system of a host is, in bytes."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class VFolderHost:
    """One host as this node sees it; methods block for a moment."""

    name: str
    root: Path

    @property
    def staging(self) -> Path:
        return self.root / _OWN / "staging"

    @property
    def uploads(self) -> Path:
        return self.root / _OWN / "uploads"

    @property
    def checkpoints(self) -> Path:
        return self.root / _OWN / "checkpoints"

    def folder_path(self, user_id: str, folder_id: str) -> Path:
        return self.root / user_id / folder_id

    def prepare(self, known: str | None = None) -> None:
        """Make the managers' own directories, and the marker unless there is one.

        ``known`` is the id that the host had when it was used before.  Raises ``Unavailable``
        where it has another one now or none, and where it cannot be used.
        """
        try:
            self._check(known)
            # Not more than one level: a mount point that is missing shall not become a directory.
            self.root.mkdir(mode=0o711, exist_ok=True)
            for path in (self.root / _OWN, self.staging, self.uploads, self.checkpoints):
                path.mkdir(mode=0o700, exist_ok=True)
            if self.marker() is None:
                self._write_marker()
        except OSError as error:
            raise Unavailable(
                f"The vfolder host {self.name!r} cannot be used: {self.root}: {error.strerror}. "
                "Mount it, or change BackendAI.vfolder_hosts."
            ) from error

    def _check(self, known: str | None) -> None:
        """Refuse a mount point that is empty, or where another disk is."""
        path, found = self.root / _OWN / _MARKER, self.marker()
        if known is not None and found != known:
            what = "nothing" if found is None else "something else"
            raise Unavailable(
                f"At {self.root}, where the vfolder host {self.name!r} should be, {what} is "
                f"mounted: its marker file {path} had the id {known}. Mount the host; if it has "
                f'moved to a new disk on purpose, write {{"id": "{known}"}} to that file.'
            )
        if found is None and path.exists() and self.marker() is None:  # not just made by another
            raise Unavailable(
                f"The marker file {path} of the vfolder host {self.name!r} cannot be read."
            )

    def marker(self) -> str | None:
        """Return the id in the marker, or None where there is none to be read."""
        try:
            found = json.loads((self.root / _OWN / _MARKER).read_text())
            return str(found["id"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def space(self) -> Space:
        """Raises ``Unavailable`` if the mount point does not answer."""
        try:
            found = os.statvfs(self.root)
        except OSError as error:
            raise Unavailable(
                f"The vfolder host {self.name!r} does not answer: {error.strerror}."
            ) from error
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def _write_marker(self) -> None:
        path = self.root / _OWN / _MARKER
        partial = path.with_name(f"{_MARKER}.{uuid.uuid4().hex}")
        with partial.open("x") as file:
            json.dump({"name": self.name, "id": str(uuid.uuid4())}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):  # another manager was faster
                os.link(partial, path)
        finally:
            partial.unlink()


def prepare_all(hosts: Mapping[str, VFolderHost], *, needed: str, known: Mapping[str, str]) -> None:
    """Make hosts ready; blocks.  One that is not mounted keeps only its own folders away.

    ``known`` are the ids that they had before.  Raises ``Unavailable`` if the host that is
    not mounted is the ``needed`` one.
    """
    for host in hosts.values():
        try:
            host.prepare(known.get(host.name))
        except Unavailable as error:
            if host.name == needed:
                raise
            log.warning("%s", error)


def read_markers(hosts: Mapping[str, VFolderHost]) -> dict[str, str]:
    """Return the ids in the markers of those hosts that are mounted here, by name; blocks."""
    markers = ((name, host.marker()) for name, host in hosts.items())
    return {name: marker for name, marker in markers if marker is not None}


def read_hosts(raw: Mapping[str, str], *, field: str) -> dict[str, VFolderHost]:
    """Return the hosts of a configuration; raises ``InvalidInput`` naming the entry."""
    hosts = {}
    for name, path in raw.items():
        where = f"{field}[{name!r}]"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(where, "names consist of letters, digits, dots and dashes")
        if not isinstance(path, str) or not path.startswith("/"):
            raise InvalidInput(where, "expected the absolute path of a mount point")
        hosts[name] = VFolderHost(name, Path(path))
    return hosts
