"""What a kernel does, for culling and for the lists of kernels, without reading its output."""

from __future__ import annotations

from typing import Any

from jupyter_server._tz import utcnow

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.journal import JournalWatch, News, Where
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner

_STARTING, _IDLE, _BUSY, _RESTARTING = "starting", "idle", "busy", "restarting"


def journal_of(kernels: Any, kernel_id: str) -> Where:
    """Return how a kernel's journal is reached, as long as it is one of ours and has one.

    ``kernels`` is the server's ``MappingKernelManager``.
    """

    def where() -> Connection | None:
        provisioner = getattr(kernels._kernels.get(kernel_id), "provisioner", None)
        return provisioner.journal if isinstance(provisioner, BackendAIProvisioner) else None

    return where


async def follow(kernels: Any, kernel: Any) -> None:
    """Keep a kernel's state and its last activity up to date until it is gone."""
    watch = JournalWatch(journal_of(kernels, kernel.kernel_id))
    try:
        async for news in watch:
            record(kernels, kernel, news)
    finally:
        watch.close()


def record(kernels: Any, kernel: Any, news: News) -> None:
    """Apply the rules of ``MappingKernelManager.start_watching_activity`` to a message."""
    if kernel.execution_state == _RESTARTING:
        return  # what is heard is the end of the dead one; the restarter says when it is back
    if news.msg_type is None:
        if news.state != _STARTING:
            kernel.execution_state = news.state
        return
    is_tracked = kernels.track_message_type(news.parent_type)
    is_active = is_tracked or kernels.track_message_type(news.msg_type)
    if is_active or kernel.execution_state == _BUSY:
        kernels.last_kernel_activity = kernel.last_activity = utcnow()
    if news.msg_type != "status":
        return
    if is_tracked:
        kernel.execution_state = news.state
    elif kernel.execution_state == _STARTING and news.state != _STARTING:
        kernel.execution_state = _IDLE
