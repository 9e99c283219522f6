"""A private view of the system for each kernel program, made by bubblewrap (bwrap)."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from backendai_jupyter.agent.runtime.base import HOME, RUN_DIR, ContainerSpec, Inside
from backendai_jupyter.agent.runtime.sandbox import USER_NAME, become_user
from backendai_jupyter.agent.runtime.workdir import under
from backendai_jupyter.errors import RuntimeFailed

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# What programs look up in /etc.  The rest of it belongs to the node: its secrets lie there.
# Each costs a kernel's start 0.2 ms.
ETC = (
    *("ld.so.cache", "alternatives", "nsswitch.conf", "resolv.conf", "services", "protocols"),
    *("ssl/certs", "ssl/openssl.cnf", "pki", "crypto-policies"),
    *("localtime", "timezone", "fonts", "mime.types", "inputrc", "R"),
)
PROBE_TIMEOUT_S = 20.0
NOBODY = 65534

_USERS = """\
root:x:0:0:root:/root:/usr/sbin/nologin
{name}:x:{uid}:{gid}:{name}:{home}:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUPS = "root:x:0:\n{name}:x:{gid}:\nnogroup:x:65534:\n"


class Bubblewrap:
    """The program has its own /home/work, /tmp, processes and host name, and no privilege.

    Of the node it sees, read-only, the system's programs and libraries and the Python
    installation that this agent runs with.  As root, bwrap keeps the three capabilities that
    setpriv needs to become the kernel's user; otherwise it works in a user namespace.
    """

    confined = True
    notes: tuple[str, ...] = ("Kernels share the network of this node.",)

    def __init__(self, bwrap: str, setpriv: str | None, *, hidden: Path) -> None:
        self._bwrap = bwrap
        self._setpriv = setpriv
        self._hidden = hidden
        self._shown = tuple(_system())

    def inside(self, run_dir: Path, home_dir: Path) -> Inside:
        return Inside(RUN_DIR, HOME)

    def workdir(self, spec: ContainerSpec) -> str:
        return spec.workdir

    def prepare(self, spec: ContainerSpec, directory: Path, hosts: Mapping[str, str]) -> None:
        (directory / "tmp").mkdir(mode=0o700)
        os.chown(directory / "tmp", spec.uid, spec.gid)
        etc = directory / "etc"
        etc.mkdir(mode=0o755)
        words = {"name": USER_NAME, "uid": spec.uid, "gid": spec.gid, "home": HOME}
        _write(etc / "passwd", _USERS.format(**words))
        _write(etc / "group", _GROUPS.format(**words))
        _write(etc / "hosts", _hosts({spec.hostname: "127.0.1.1", **hosts}))
        _write(etc / "hostname", f"{spec.hostname}\n")
        for mount in spec.mounts:
            rest = under(mount.target, HOME)
            if rest not in (None, "."):
                make_mount_point(spec.home_dir, rest, Path(mount.source), spec.uid, spec.gid)

    def command(self, spec: ContainerSpec, directory: Path, *, info_fd: int) -> tuple[str, ...]:
        words = [*self._base(spec.uid, spec.gid, spec.shm_bytes), "--hostname", spec.hostname]
        words += ["--info-fd", str(info_fd)]
        words += _show("--bind", spec.home_dir, HOME)
        words += _show("--bind", directory / "tmp", "/tmp")  # noqa: S108 - the kernel's own
        words += [*_open_parents("/var/tmp"), "--symlink", "/tmp", "/var/tmp"]  # noqa: S108 - as above
        words += _show("--bind", spec.run_dir, RUN_DIR)
        for name in ("passwd", "group", "hosts", "hostname"):
            words += _show("--ro-bind", directory / "etc" / name, f"/etc/{name}")
        words += self._installation()
        for mount in sorted(spec.mounts, key=lambda mount: mount.target):  # outer ones first
            bind = "--ro-bind" if mount.readonly else "--bind"
            words += _show(bind, mount.source, mount.target)
        for file in spec.devices.files:
            words += _show("--dev-bind", file.host, file.inside)
        words += ["--remount-ro", "/", "--"]
        return (*words, *self._drop(spec.uid, spec.gid))

    def explain(self, error: str) -> str:
        return ""

    def probe(self) -> None:
        """Run Python in a sandbox like a kernel's; raises ``RuntimeFailed`` saying what broke."""
        root = os.geteuid() == 0
        uid, gid = (NOBODY, NOBODY) if root else (os.getuid(), os.getgid())
        words = [*self._base(uid, gid), *self._installation(), "--remount-ro", "/", "--"]
        words += [*self._drop(uid, gid), sys.executable, "-I", "-S", "-c", ""]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFailed(f"bubblewrap does not work here ({error})") from error
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RuntimeFailed(f"bubblewrap does not work here ({said})")

    def _drop(self, uid: int, gid: int) -> tuple[str, ...]:
        become = become_user(self._setpriv, uid, gid)
        return (*become, "--bounding-set", "-all") if become else ()

    def _base(self, uid: int, gid: int, shm_bytes: int = 0) -> list[str]:
        words = [self._bwrap, "--die-with-parent", "--new-session"]
        words += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        words += ["--cap-drop", "ALL"]
        if os.geteuid() == 0:
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                words += ["--cap-add", capability]
        else:
            words += ["--unshare-user", "--uid", str(uid), "--gid", str(gid)]
        words += self._shown
        words += ["--proc", "/proc", "--dev", "/dev"]
        if shm_bytes:
            words += ["--size", str(shm_bytes)]
        return [*words, "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108 - a new one

    def _installation(self) -> list[str]:
        """Show this Python at its own paths, which may lie below /tmp or a home directory."""
        words: list[str] = []
        for path in python_paths():
            words += _show("--ro-bind", path, path)
            if self._hidden.is_relative_to(path):
                words += ["--tmpfs", str(self._hidden)]
        return words


def find_bubblewrap(*, hidden: Path) -> Bubblewrap:
    """Return a sandbox that works here, or raise ``RuntimeFailed`` saying why there is none.

    ``hidden`` is a directory of the agent's that no kernel may see wherever it lies.
    """
    bwrap, setpriv = shutil.which("bwrap"), shutil.which("setpriv")
    if bwrap is None:
        raise RuntimeFailed("bubblewrap is not installed")
    if os.geteuid() == 0 and setpriv is None:
        raise RuntimeFailed("setpriv (of util-linux) is not installed")
    found = Bubblewrap(bwrap, setpriv, hidden=hidden)
    found.probe()
    return found


def python_paths() -> tuple[Path, ...]:
    """Return the directories and files that make up the Python installation we run with."""
    paths = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix)]
    paths += map(Path, site.getsitepackages())
    if site.ENABLE_USER_SITE:
        paths.append(Path(site.getusersitepackages()))
    hop = Path(sys.executable)
    while hop.is_symlink():  # an interpreter may be reached through links that lie elsewhere
        hop = hop.parent / hop.readlink()
        paths.append(hop)
    shown: list[Path] = []
    for path in paths:
        absolute = Path(os.path.normpath(path))
        covered = any(absolute.is_relative_to(other) for other in [*map(Path, SYSTEM), *shown])
        if absolute.exists() and not covered:
            shown.append(absolute)
    return tuple(shown)


def make_mount_point(home: Path, rest: str, source: Path, uid: int, gid: int) -> None:
    """Make the empty directory (or file) below ``home`` that a mount goes on.

    The kernel's user owns ``home`` and may have put a symbolic link there, so no link is
    followed: we may be root.
    """
    *parents, last = Path(rest).parts
    if ".." in (*parents, last):
        raise RuntimeFailed(f"The folder {HOME}/{rest} cannot be shown outside of {HOME}.")
    directory = os.open(home, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in [*parents, last] if source.is_dir() else parents:
            directory = _enter(directory, name, uid, gid)
        if not source.is_dir():
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(last, flags, 0o644, dir_fd=directory))
    except OSError as error:
        raise RuntimeFailed(
            f"The folder {HOME}/{rest} cannot be shown, because something of that name is in "
            f"the way: {error.strerror}."
        ) from error
    finally:
        os.close(directory)


def _enter(directory: int, name: str, uid: int, gid: int) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=directory)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        pass
    entered = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    os.close(directory)
    return entered


def _system() -> Iterator[str]:
    for directory in map(Path, SYSTEM):
        if directory.is_symlink():
            yield from ("--symlink", str(directory.readlink()), str(directory))
        elif directory.is_dir():
            yield from _show("--ro-bind", directory, directory)
    for name in ETC:
        path = Path("/etc", name)
        if path.exists():
            yield from _show("--ro-bind", path.resolve(), path)


def _show(bind: str, source: Path | str, target: Path | str) -> list[str]:
    return [*_open_parents(target), bind, str(source), str(target)]


def _open_parents(target: Path | str) -> Iterator[str]:
    """Let everyone pass to ``target``; bwrap would make its parents for their owner only."""
    for parent in reversed(Path(target).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(parent))


def _hosts(own: Mapping[str, str]) -> str:
    """Return the node's /etc/hosts with names of the kernel's own, which count before others."""
    path = Path("/etc/hosts")
    known = path.read_text(errors="replace") if path.exists() else "127.0.0.1 localhost\n"
    return "".join(f"{address} {name}\n" for name, address in own.items()) + known


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)  # whatever our umask: the kernel's user reads it
