"""What a virtual folder may be called, and what may become of it.

A folder's name is one path component: in the Jupyter file browser, and below
``/home/work`` in every kernel, where some names belong to the system.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

from backendai_jupyter.errors import InvalidInput


class VFolderStatus(StrEnum):
    """The names are Backend.AI's."""

    READY = "ready"
    DELETE_PENDING = "delete-pending"  # in the trash; its name is free for another one
    DELETE_ONGOING = "delete-ongoing"  # being purged: there is no way back
    DELETE_COMPLETE = "delete-complete"  # final: nothing of it is left on its host


class Permission(StrEnum):
    READ_ONLY = "ro"
    READ_WRITE = "rw"


MAX_NAME_BYTES = 128  # well below the 255 bytes of common file systems
UNNAMED_DIRECTORY = ".cwd"  # where a kernel sees a directory whose own name is taken there
_RESERVED = frozenset(
    {
        ".terminfo",
        ".jupyter",
        ".tmux.conf",
        ".ssh",
        ".ipynb_checkpoints",
        UNNAMED_DIRECTORY,
    }
)
_STARTUP_FILE = re.compile(r"\.[a-z0-9]+(rc|_profile)")


def check_name(name: object, *, field: str = "name") -> str:
    """Return ``name`` in Unicode normal form C, or raise ``InvalidInput`` saying why not."""
    if not isinstance(name, str) or not name:
        raise InvalidInput(field, "a folder needs a name")
    name = unicodedata.normalize("NFC", name)
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise InvalidInput(field, f"longer than {MAX_NAME_BYTES} bytes")
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise InvalidInput(field, "may not contain a path separator")
    if ":" in name:  # the file browser would take what stands before it for a drive
        raise InvalidInput(field, "may not contain a colon")
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
        raise InvalidInput(field, "may not contain control characters")
    if name != name.strip():
        raise InvalidInput(field, "may not begin or end with a space")
    if name in _RESERVED or _STARTUP_FILE.fullmatch(name):
        raise InvalidInput(field, f"{name!r} is reserved for the system")
    return name
