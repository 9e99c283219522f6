"""What an agent puts into the private directory of a kernel before it starts."""

from __future__ import annotations

import os
from pathlib import Path

from backendai_jupyter.agent.node import Node

OUTPUT_FILE = "kernel_output.py"  # which a Python kernel runs when it starts (decision 016)
_HERE = Path(__file__).parent
_FILES = (OUTPUT_FILE, "kernel_delivery.py")  # and what it uses (decision 023)


def deliver(run_dir: Path, node: Node) -> None:
    """Write the code that a Python kernel runs; it costs others nothing."""
    for name in _FILES:
        write_private(run_dir / name, (_HERE / name).read_bytes(), node)


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
