"""Show one more folder to a kernel that runs already.

``python late_mount.py PID HOME_DIR SOURCE NAME ro|rw UID GID`` enters the mount namespace of
process PID, whose home directory must be HOME_DIR, and makes SOURCE appear there as NAME; if
it is there already, nothing happens.  It is a program of its own, because a process with
several threads cannot enter another namespace, and it imports nothing of ours, to be quick.

A mount is detached from our namespace with ``open_tree(2)`` and attached in the kernel's
with ``move_mount(2)``, both relative to descriptors: the kernel owns its home directory and
may swap whatever is in it.
"""

from __future__ import annotations

import ctypes
import os
import sys

HOME = "/home/work"

# linux/mount.h, linux/fcntl.h; the numbers are those of every architecture but alpha
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE = 1
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x4, 0x40
_AT_EMPTY_PATH = 0x1000
_RDONLY, _NOSUID, _NODEV = 0x1, 0x2, 0x4
_CLONE_NEWNS = 0x20000
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def main() -> None:
    pid, home_dir, source, name, mode, uid, gid = sys.argv[1:]
    source_fd = os.open(source, _ENTER)
    tree_fd = _detached(source_fd, readonly=mode == "ro")
    expected = _identity(os.open(home_dir, _ENTER))
    sys.meta_path.clear()  # from here on an import would run code of the kernel's image, as root
    with open(f"/proc/{pid}/ns/mnt", "rb") as namespace:  # noqa: PTH123 - quicker
        _checked(_LIBC.setns(namespace.fileno(), _CLONE_NEWNS))
    home_fd = os.open(HOME, _ENTER)
    if _identity(home_fd) != expected:
        raise SystemExit(f"process {pid} is not the kernel that was meant")
    target_fd = _mount_point(home_fd, name, int(uid), int(gid))
    if _identity(target_fd) != _identity(source_fd):
        flags = _FROM_EMPTY_PATH | _TO_EMPTY_PATH
        _checked(_LIBC.syscall(_MOVE_MOUNT, tree_fd, b"", target_fd, b"", flags))


def _detached(source_fd: int, *, readonly: bool) -> int:
    """Return a mount of the directory that is attached nowhere yet."""
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC
    tree_fd = _checked(_LIBC.syscall(_OPEN_TREE, source_fd, b"", flags))
    attributes = _Attributes(set=_NOSUID | _NODEV | (_RDONLY if readonly else 0))
    reference, size = ctypes.byref(attributes), ctypes.sizeof(attributes)
    _checked(_LIBC.syscall(_MOUNT_SETATTR, tree_fd, b"", _AT_EMPTY_PATH, reference, size))
    return tree_fd


def _mount_point(home_fd: int, name: str, uid: int, gid: int) -> int:
    """Return a descriptor of the directory to mount on; make it if there is nothing."""
    try:
        os.mkdir(name, 0o755, dir_fd=home_fd)
        os.chown(name, uid, gid, dir_fd=home_fd, follow_symlinks=False)
    except FileExistsError:
        pass
    return os.open(name, _ENTER, dir_fd=home_fd)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(str(error.strerror))
