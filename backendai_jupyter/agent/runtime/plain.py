"""A kernel program as an ordinary process, where no sandbox can be had."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from backendai_jupyter.agent.runtime.base import HOME, ContainerSpec, Inside
from backendai_jupyter.agent.runtime.sandbox import become_user
from backendai_jupyter.agent.runtime.workdir import on_host


class PlainProcess:
    """Nothing is hidden from the program, and it sees host paths."""

    confined = False

    def __init__(self, why: str) -> None:
        self._setpriv = shutil.which("setpriv")
        self.notes: tuple[str, ...] = (
            f"Kernels are not confined, because {why}: they see all files that their user may "
            "read, all processes of this node and its network, and share /tmp.",
            f"Folders cannot be shown below {HOME} and read-only folders are not enforced; "
            "a kernel starts in the folder's own directory.",
            "Kernels can open all device files that their user may, also of devices that they "
            "were not given.",
        )

    def inside(self, run_dir: Path, home_dir: Path) -> Inside:
        return Inside(str(run_dir), str(home_dir))

    def workdir(self, spec: ContainerSpec) -> str:
        found = on_host(spec)
        return str(spec.home_dir if found is None else Path(*found))

    def prepare(self, spec: ContainerSpec, directory: Path, hosts: Mapping[str, str]) -> None:
        pass

    def command(self, spec: ContainerSpec, directory: Path, *, info_fd: int) -> tuple[str, ...]:
        if self._setpriv is None:
            return ()
        user = become_user(self._setpriv, spec.uid, spec.gid) or (self._setpriv, "--no-new-privs")
        return (*user, "--pdeathsig", "KILL")

    def explain(self, error: str) -> str:
        if os.geteuid() == 0 and f"no program {sys.executable} " in error:
            return (
                " Kernels never run as root, and their user cannot read the Python that this "
                "agent runs with; install it outside of root's home directory."
            )
        return ""
