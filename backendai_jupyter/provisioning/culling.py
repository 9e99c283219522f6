"""Whether a kernel may be culled, beside what ``MappingKernelManager`` itself looks at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from jupyter_server._tz import utcnow

from backendai_jupyter.provisioning.activity import journal_of
from backendai_jupyter.provisioning.glance import glance
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner


async def may_cull(kernels: Any, kernel_id: str) -> bool:
    """Whether nobody needs a kernel who is not seen by looking at it alone, at this server.

    ``kernels`` is the server's ``BackendAIMappingKernelManager``.  The kernels of one session are
    idle only together: its main one stands for all.
    """
    provisioner = kernels._kernels[kernel_id].provisioner
    place = provisioner.place if isinstance(provisioner, BackendAIProvisioner) else None
    if place is not None and (place.is_sub or not _are_idle(kernels, place.subs)):
        return False
    journal = journal_of(kernels, kernel_id)()
    asks = kernels.adoption is not None and kernels.adoption.is_shared
    if not asks or kernels.cull_connected or journal is None:
        return True
    return (await asyncio.to_thread(glance, journal)).readers == 0


def _are_idle(kernels: Any, kernel_ids: Iterable[str]) -> bool:
    """Whether all these may be culled, by the rules of ``MappingKernelManager``."""
    for kernel_id in kernel_ids:
        kernel = kernels._kernels.get(kernel_id)
        if kernel is None:
            continue  # it has ended
        limit_s = kernel.kernel_spec.metadata.get("cull_idle_timeout", kernels.cull_idle_timeout)
        is_busy = kernel.execution_state == "busy" and not kernels.cull_busy
        is_used = kernels._kernel_connections.get(kernel_id, 0) and not kernels.cull_connected
        idle_s = (utcnow() - kernel.last_activity).total_seconds()
        if is_busy or is_used or idle_s <= limit_s:
            return False
    return True
