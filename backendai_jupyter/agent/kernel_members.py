"""Runs inside a Python kernel when it starts: makes it a member of its session (decision 035).

The agent puts this file, and the package that it offers, beside ``kernel_output.py``, which uses
it; the kernel of a batch's notebook runs it instead of that one.  A kernel pays nothing for what
it does not use: the package is imported at the first ``%%backendai``, and only a session of
several kernels, which has a secret, listens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

AGAIN_S = 1.0


def install(shell: Any) -> None:
    """Give the IPython shell its ``%%backendai``, and the other members somebody to ask."""
    run_dir = Path(__file__).parent
    library = run_dir / "kernel_lib.zip"
    if str(library) not in sys.path:
        sys.path.append(str(library))
    shell.magics_manager.register_lazy("backendai", "backendai_members")
    if (run_dir / "members.key").exists():
        threading.Thread(target=_keep_listening, args=[run_dir, library], daemon=True).start()


def _keep_listening(run_dir: Path, library: Path) -> None:
    """Have a process that listens for as long as this one lives."""
    while True:
        with (run_dir / "members.log").open("w") as log:
            subprocess.run(
                [sys.executable, str(library), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        time.sleep(AGAIN_S)
