"""Where the five channels of a kernel are, on the kernel's side of the relay.

A kernel binds ``ipc://{prefix}-1`` to ``ipc://{prefix}-5``, in the order of ``CHANNELS``:
Jupyter's ipc transport takes the ``ip`` of a connection file as a path prefix and the port
as its suffix.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from backendai_jupyter.errors import RelayFailed

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), less its terminating zero


def ipc_connection(prefix: str, key: str) -> dict[str, str | int]:
    """Return the content of the connection file for a kernel that binds beneath ``prefix``.

    ``prefix`` is what the kernel sees: inside a container it differs from the host's.
    """
    check_prefix(prefix)
    ports = {f"{channel}_port": port for port, channel in enumerate(CHANNELS, start=1)}
    return {
        "transport": "ipc",
        "ip": prefix,
        **ports,
        "key": key,
        "signature_scheme": "hmac-sha256",
    }


def ipc_address(prefix: str, channel: str) -> str:
    """Return the ZeroMQ address that the kernel binds for ``channel``."""
    return f"ipc://{prefix}-{CHANNELS.index(channel) + 1}"


def check_prefix(prefix: str) -> None:
    """Raise ``RelayFailed`` when no socket can have this path."""
    room_bytes = MAX_SOCKET_PATH_BYTES - len("-1")
    size_bytes = len(prefix.encode())
    if size_bytes > room_bytes:
        raise RelayFailed(
            f"The socket prefix {prefix} has {size_bytes} bytes and at most {room_bytes} fit; "
            "choose a shorter run directory for the agent."
        )
    if not prefix.startswith("/"):
        raise RelayFailed(f"The socket prefix {prefix!r} is not an absolute path.")


def journal_socket(control: Path, kernel_id: str) -> Path:
    """Return where the relay that listens on ``control`` lets a kernel's journal be read.

    Raises ``RelayFailed`` when no socket can have this path.
    """
    path = control.with_name(f"{control.name}-{kernel_id.replace('-', '')[:16]}")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise RelayFailed(
            f"{path} has more than {MAX_SOCKET_PATH_BYTES} bytes, too many for a socket; "
            "choose a shorter state directory for the agent."
        )
    return path


def listens(control: Path) -> bool:
    """Return whether a process accepts connections on this unix socket."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(control))
        return True
    return False
