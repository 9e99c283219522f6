"""Paths of the file browser, such as ``data/sub/nb.ipynb``; the first name is a folder's."""

from __future__ import annotations

from backendai_jupyter.errors import NotFound
from backendai_jupyter.storage.listing import is_speakable


def split(path: str) -> tuple[str, ...]:
    """Return the names in a contents path; raises ``NotFound`` for one that no file can have."""
    names = tuple(name for name in path.split("/") if name not in {"", "."})
    if ".." in names or "\0" in path or not is_speakable(path):
        raise NotFound(f"{path!r} is not a path.")
    return names


def is_hidden(names: tuple[str, ...]) -> bool:
    return any(name.startswith(".") for name in names)
