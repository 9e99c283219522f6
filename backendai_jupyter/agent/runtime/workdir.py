"""Where a kernel's working directory is on this host, and whether it is there at all."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from backendai_jupyter.agent.runtime.base import HOME, ContainerSpec

_ENTER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def under(path: str, parent: str) -> str | None:
    """Return ``path`` relative to ``parent``, or None if it does not lie there."""
    if path == parent:
        return "."
    prefix = parent.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def on_host(spec: ContainerSpec) -> tuple[Path, str] | None:
    """Return the host directory that shows the working directory, and the way on from there."""
    shown = {mount.target: Path(mount.source) for mount in spec.mounts}
    shown.setdefault(HOME, spec.home_dir)
    for target in sorted(shown, key=len, reverse=True):  # the innermost wins
        rest = under(spec.workdir, target)
        if rest is not None:
            return shown[target], rest
    return None


def is_missing(spec: ContainerSpec) -> bool:
    """Whether the working directory is certainly not there, or not a directory; blocks.

    A symbolic link on the way may mean something inside only, so nothing is certain then.
    """
    found = on_host(spec)
    if found is None:
        return False
    top, rest = found
    with ExitStack() as opened:
        try:
            fd = os.open(top, os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            for name in PurePosixPath(rest).parts:
                fd = os.open(name, _ENTER, dir_fd=fd)
                opened.callback(os.close, fd)
                mode = os.fstat(fd).st_mode
                if not stat.S_ISDIR(mode):
                    return not stat.S_ISLNK(mode)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return False
