"""Decide how a kernel program is shut in on this node, by trying it."""

from __future__ import annotations

import os
import re
import shlex
import site
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from backendai_jupyter.agent.runtime.base import ContainerSpec, Inside
from backendai_jupyter.errors import RuntimeFailed

USER_NAME = "work"
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Sandbox(Protocol):
    """What surrounds a kernel program: a private view of the system, or nothing."""

    confined: bool  # whether everything dies with the first process
    notes: tuple[str, ...]

    def inside(self, run_dir: Path, home_dir: Path) -> Inside: ...

    def workdir(self, spec: ContainerSpec) -> str:
        """Return where the program starts, as it sees it."""
        ...

    def prepare(self, spec: ContainerSpec, directory: Path, hosts: Mapping[str, str]) -> None:
        """Write into the kernel's ``directory`` what its sandbox shows; blocks.

        ``hosts`` are the addresses of the kernels of its session, if that has several.
        """
        ...

    def command(self, spec: ContainerSpec, directory: Path, *, info_fd: int) -> tuple[str, ...]:
        """Return the words before the program; they end as ``spec.uid``, never as root.

        The sandbox writes who its first process is to ``info_fd``.
        """
        ...

    def explain(self, error: str) -> str:
        """Return what a person can do about a start that failed with ``error``, or nothing."""
        ...


def check(spec: ContainerSpec) -> None:
    """Raise ``RuntimeFailed`` unless we may and should run a program as the spec's user."""
    own = os.geteuid()
    if not _ID.fullmatch(spec.kernel_id):
        raise RuntimeFailed(f"{spec.kernel_id!r} cannot be the name of a kernel's directory.")
    if spec.uid == 0 or spec.gid == 0:
        raise RuntimeFailed("A kernel never runs as root; give its user another uid and gid.")
    if own not in (0, spec.uid):
        raise RuntimeFailed(
            f"This agent runs as uid {own} and cannot start a kernel as uid {spec.uid}; "
            "start the agent as root, or give kernels its own uid."
        )


def become_user(setpriv: str | None, uid: int, gid: int) -> tuple[str, ...]:
    """Return the words that turn root into another user for good; none if we are not root."""
    if os.geteuid() != 0 or setpriv is None:
        return ()
    who = ("--reuid", str(uid), "--regid", str(gid), "--clear-groups")
    return (setpriv, *who, "--inh-caps", "-all", "--no-new-privs")


def python_env() -> dict[str, str]:
    """Return what makes a kernel find packages that were installed for our user alone."""
    own = Path(site.getusersitepackages()) if site.ENABLE_USER_SITE else None
    return {"PYTHONPATH": str(own)} if own is not None and own.is_dir() else {}


def launch_script(env: Mapping[str, str], *, home: str, workdir: str) -> str:
    """Return the shell script that sets ``env`` and becomes the program, ``"$@"``.

    It is read from standard input, as the kernel's user.  On a command line every user of
    the node could read the values; in the environment of the programs that make the sandbox
    a variable such as LD_PRELOAD would run its owner's code as root.
    """
    wrong = [name for name in env if not _NAME.fullmatch(name) or "\0" in env[name]]
    if wrong:
        raise RuntimeFailed(
            f"The environment variable {wrong[0]!r} cannot be set; names consist of letters, "
            "digits and underscores."
        )
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    return (
        f"{exports}"
        f"cd {shlex.quote(workdir)} 2>/dev/null || cd {shlex.quote(home)} || exit 125\n"
        "unset PWD OLDPWD\n"
        'command -v "$1" >/dev/null ||\n'
        '{ echo "there is no program $1 that may be run" >&2; exit 127; }\n'
        "echo started >&3\n"
        'exec "$@" 3>&- </dev/null\n'
    )
