"""Ports for the servers that tests start; no other process of the run is given the same."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator

FIRST, END = 20_000, 32_000  # below those that outgoing connections get


def _of_this_process() -> Iterator[int]:
    """Yield ports, each again after all others: between its choice and its use there is time."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = list(range(FIRST + worker, END, workers))
    random.Random().shuffle(ports)  # another run may be beside this one
    return itertools.cycle(ports)


_PORTS = _of_this_process()


def free_port() -> int:
    """Return a port that nobody listens on."""
    for port in itertools.islice(_PORTS, END - FIRST):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
