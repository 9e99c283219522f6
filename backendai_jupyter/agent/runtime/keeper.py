"""Stand between one kernel program and the agent, so that either may be restarted or die.

Run as a script, by path, with nothing but the standard library: it starts in a few
milliseconds and keeps a few megabytes.  It outlives the agent on purpose and does three
things: start the program, keep the last megabyte of what it writes, and record how it ended.
The sandbox dies with its keeper (``--die-with-parent``), never with the agent.

Usage: keeper.py DIRECTORY STARTED_FD INFO_FD adopt|leave COMMAND...

``adopt`` makes the keeper the parent of every process that the program leaves behind, and
the end of each: a sandbox does that by itself, a plain process does not.
"""

# Importing pathlib costs 3 ms:
# ruff: noqa: PTH105, PTH123

from __future__ import annotations

import os
import select
import sys

if "adopt" in sys.argv[4:5]:
    import ctypes  # here, because it costs as much again as starting Python

LOG_PART_BYTES = 512 * 1024  # two parts are kept: the one being written and the one before
DRAIN_BYTES = 4 * LOG_PART_BYTES  # what a program may have left in its pipe, generously
PIPE_BYTES = 64 * 1024
SIGINT, SIGKILL, SIGPIPE, SIGXFSZ = 2, 9, 13, 25  # the signal module costs 4 ms to import
PR_SET_CHILD_SUBREAPER = 36
STARTED_FD = 3  # what the program's launcher writes to when all is well


class Log:
    """A file that never holds more than two parts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()
        self._size_bytes = 0

    def append(self, data: bytes) -> None:
        try:
            if self._size_bytes >= LOG_PART_BYTES:
                os.close(self._fd)
                os.replace(self._path, self._path + ".1")
                self._fd = self._open()
                self._size_bytes = 0
            self._size_bytes += os.write(self._fd, data)
        except OSError:
            pass  # a full disk costs the log, never the kernel

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def main(directory: str, started_fd: int, info_fd: int, adopting: bool, argv: list[str]) -> None:
    os.chdir(directory)
    if adopting:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pipe, child_end = os.pipe()
    os.set_inheritable(started_fd, False)
    os.set_inheritable(info_fd, not adopting)
    child = os.posix_spawn(
        argv[0],
        argv,
        {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, child_end, 1),
            (os.POSIX_SPAWN_DUP2, child_end, 2),
            (os.POSIX_SPAWN_DUP2, started_fd, STARTED_FD),
        ],
        setsid=True,
        # Python ignores the latter two, its children should not; the first one is ignored by
        # whatever a script has started in the background, and a kernel must hear it.
        setsigdef=[SIGINT, SIGPIPE, SIGXFSZ],
    )
    for fd in (child_end, started_fd, info_fd, 0):
        os.close(fd)
    write("child", f"{child}")
    code = watch(child, pipe, Log("log"))
    if adopting:
        end_orphans()
    write("exit", f"{code}")


def watch(child: int, pipe: int, log: Log) -> int:
    """Copy the pipe to the log until the program ends; return how it did."""
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(pipe, select.POLLIN)
    while pidfd not in (ready := [fd for fd, _ in poll.poll()]):
        data = os.read(pipe, PIPE_BYTES) if pipe in ready else b""
        log.append(data)
        if not data:
            poll.unregister(pipe)
    os.set_blocking(pipe, False)  # a process it left behind may hold the other end
    drain(pipe, log)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def drain(pipe: int, log: Log) -> None:
    left_bytes = DRAIN_BYTES
    try:
        while left_bytes > 0 and (data := os.read(pipe, PIPE_BYTES)):
            log.append(data)
            left_bytes -= len(data)
    except BlockingIOError:
        pass


def end_orphans() -> None:
    """Kill what the program left behind; each death may hand us its own children."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            orphans = [int(pid) for pid in listing.read().split()]
        for pid in orphans:
            os.kill(pid, SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def write(name: str, text: str) -> None:
    with open(f"{name}.new", "w") as file:
        file.write(text)
    os.replace(f"{name}.new", name)


def start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot: with its pid, its identity."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def detach(directory: str) -> None:
    """Leave the agent's process tree; the process that ends here says who the keeper is."""
    pid = os.fork()
    if pid:
        try:
            os.chdir(directory)
            write("keeper", f"{pid} {start_time(pid)}")
        except OSError:
            os.kill(pid, SIGKILL)  # nobody would ever find it
            raise
        os._exit(0)  # at once: the cleanup of the interpreter would delay the kernel


if __name__ == "__main__":
    detach(sys.argv[1])
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "adopt", sys.argv[5:])
