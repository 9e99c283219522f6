"""The rules for names of virtual folders.

A folder's name is one path component: in the Jupyter file browser, and below
``/home/work`` in every kernel, where some names belong to the system.
"""

from __future__ import annotations

import re
import unicodedata

from backendai_jupyter.errors import InvalidInput

MAX_NAME_BYTES = 128  # well below the 255 bytes of common file systems
_RESERVED = frozenset({".terminfo", ".jupyter", ".tmux.conf", ".ssh", ".ipynb_checkpoints"})
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
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
        raise InvalidInput(field, "may not contain control characters")
    if name != name.strip():
        raise InvalidInput(field, "may not begin or end with a space")
    if name in _RESERVED or _STARTUP_FILE.fullmatch(name):
        raise InvalidInput(field, f"{name!r} is reserved for the system")
    return name
