"""Show folders to kernels that run already, where the agent has the right to do so."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import PurePosixPath

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.runtime import late_mount
from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import RuntimeFailed

_TIMEOUT_S = 10.0


async def add_mount(runtime: KernelRuntime, node: Node, kernel_id: str, mount: Mount) -> None:
    """Let the folder appear in a running kernel; succeeds if it is there.

    Raises ``RuntimeFailed``, with the reason, where that is not possible: it then comes with
    the kernel's next program.
    """
    if os.geteuid() != 0:
        raise RuntimeFailed("only an agent that is root can add a folder to a running kernel")
    pid = await runtime.pid(kernel_id)
    if pid is None:
        raise RuntimeFailed("its program has no view of its own of the file system")
    name = str(PurePosixPath(mount.target).relative_to(late_mount.HOME))
    words = (
        *(sys.executable, "-I", "-S", late_mount.__file__, str(pid)),
        *(str(node.home_dir(kernel_id)), mount.source, name),
        *("ro" if mount.readonly else "rw", str(node.uid), str(node.gid)),
    )
    helper = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env={}
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, said = await helper.communicate()
    except TimeoutError:
        helper.kill()
        raise RuntimeFailed("its host does not answer") from None
    if helper.returncode != 0:
        raise RuntimeFailed(said.decode(errors="replace").strip() or "the system refused")
