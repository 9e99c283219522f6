"""Where a node is for others, and whether two processes look at the same directory."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ELSEWHERE = {4: ("192.0.2.1", 9), 6: ("2001:db8::1", 9)}  # of documentation; nothing is sent
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def address_of(bind: str) -> str:
    """Return where other nodes reach what is bound to ``bind``.

    For a wildcard it is the address from which this node would send to a far one.
    """
    version = _wildcard_version(bind)
    if version is None:
        return bind
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE[version])
            return str(probe.getsockname()[0])
    except OSError:  # a node without a network
        return _LOOPBACK[version]


def address_from_here(bind: str) -> str:
    """Return where this node itself reaches what is bound to ``bind``."""
    version = _wildcard_version(bind)
    return bind if version is None else _LOOPBACK[version]


def place_of(directory: Path) -> str:
    """Return what only this directory has, of all on all machines; empty if we may not use it.

    A container that sees the same directory sees the same device and inode, whatever its host
    name and paths; one that has another at this path does not.
    """
    try:
        status = directory.stat()
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        return ""
    if not os.access(directory, os.W_OK | os.X_OK):
        return ""
    return f"{boot_id}:{status.st_dev}:{status.st_ino}"


def _wildcard_version(bind: str) -> int | None:
    """Return the IP version; None if ``bind`` is no wildcard."""
    if bind == "*":
        return 4
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        return None
    return address.version if address.is_unspecified else None
