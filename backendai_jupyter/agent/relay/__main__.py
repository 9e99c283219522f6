"""Start a relay in the background: ``python -m backendai_jupyter.agent.relay --control SOCKET``.

The command returns as soon as the relay listens on its control socket.  The relay itself is
a child of no one, so that the end of the agent that started it never ends a channel.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from backendai_jupyter.agent.relay.layout import listens
from backendai_jupyter.agent.relay.process import RelayProcess

_NICE = -10
_SWITCH_INTERVAL_S = 0.0005  # a flood of one kernel must not hold up another for long


def main() -> int:
    arguments = _parse(sys.argv[1:])
    control: Path = arguments.control
    if listens(control):
        sys.stderr.write(f"A relay is listening on {control} already.\n")
        return 1
    control.unlink(missing_ok=True)
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        return 0 if os.read(readable, 1) else 1  # nothing to read: it died, its log says why
    os.close(readable)
    _raise_file_limit()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _set_nice(_NICE)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s relay %(levelname)s %(message)s"
    )
    if asyncio.run(_serve(control, writable, keep_orphans=arguments.orphan_command is None)):
        _set_nice(0)
        os.execv(arguments.orphan_command[0], arguments.orphan_command)  # noqa: S606 - our agent's
    return 0


async def _serve(control: Path, ready_fd: int, *, keep_orphans: bool) -> bool:
    """Return whether the owner was lost."""
    relay = RelayProcess(control, keep_orphans=keep_orphans)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, relay.stop)

    def ready() -> None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)

    await relay.run(ready)
    return relay.orphaned


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="backendai_jupyter.agent.relay", description=__doc__)
    parser.add_argument(
        "--control", type=Path, required=True, help="path of the unix socket that agents talk to"
    )
    parser.add_argument(
        "--orphan-command",
        type=_command,
        help="JSON list: what to become when the owning agent dies; without it, serve on",
    )
    return parser.parse_args(arguments)


def _command(text: str) -> list[str]:
    command = json.loads(text)
    if not isinstance(command, list) or not command or not all(isinstance(c, str) for c in command):
        raise ValueError(text)
    return command


def _raise_file_limit() -> None:
    """Allow as many files as we may have: each kernel takes about fifty."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _set_nice(nice: int) -> None:
    """Let this process run before its kernels, where privileges allow it.

    ipykernel drops output that is not read soon enough (1,000 messages ahead), and on a node
    where every processor is busy that happened.  The kernel groups processes by session for
    scheduling, which is why the group must be told, too.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        Path("/proc/self/autogroup").write_text(str(nice))


if __name__ == "__main__":
    sys.exit(main())
