"""What an agent puts into the private directory of a kernel before it starts."""

from __future__ import annotations

import io
import os
import zipfile
from functools import cache
from pathlib import Path

from backendai_jupyter.agent.node import Node

OUTPUT_FILE = "kernel_output.py"  # which a Python kernel runs when it starts (decision 016)
MEMBERS_FILE = "kernel_members.py"  # which it uses; the kernel of a batch runs that alone
MEMBERS_KEY = "members.key"
_HERE = Path(__file__).parent
# What it uses, directly or not (decisions 023 and 035).
_FILES = (OUTPUT_FILE, "kernel_delivery.py", "kernel_reply.py", MEMBERS_FILE)
_LIBRARY = "kernel_lib"


def deliver(run_dir: Path, node: Node) -> None:
    """Write the code that a Python kernel runs; it costs others nothing."""
    for name in _FILES:
        write_private(run_dir / name, (_HERE / name).read_bytes(), node)
    write_private(run_dir / f"{_LIBRARY}.zip", library(), node)


@cache
def library() -> bytes:
    """Return the packages for kernels as one file that Python imports from, and can run.

    One file, because a kernel could lead us astray in directories that are its own.
    """
    content, root = io.BytesIO(), _HERE / _LIBRARY
    with zipfile.ZipFile(content, "w") as archive:
        for source in sorted(root.rglob("*.py")):
            archive.write(source, source.relative_to(root))
    return content.getvalue()


def write_private(path: Path, content: bytes, node: Node) -> None:
    """Write a file that only its kernel can read."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of a start that failed, or a link that the kernel put there
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:  # of a full disk, it does not say which
        raise OSError(error.errno, error.strerror, str(path)) from error
    node.give(partial)
    partial.rename(path)
