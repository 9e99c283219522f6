"""Which plugin a node's settings ask for."""

from __future__ import annotations

from backendai_jupyter.agent.accelerators.base import AcceleratorPlugin
from backendai_jupyter.agent.accelerators.declared import DeclaredDevices
from backendai_jupyter.agent.accelerators.nvml import NvidiaDevices
from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.config import BackendAIAgent


def make_plugin(settings: BackendAIAgent) -> AcceleratorPlugin:
    """Raises ``InvalidInput`` for devices that are declared wrongly."""
    choice, declared = settings.accelerators, settings.declared()
    if choice == "nvml" or (choice == "auto" and not declared):
        return NvidiaDevices(required=choice == "nvml")
    uid, gid = kernel_identity(settings.kernel_uid)
    return DeclaredDevices(() if choice == "none" else declared, uid=uid, gid=gid)
