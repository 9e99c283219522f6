"""Let the Jupyter Server hear at once that the program of a kernel has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backendai_jupyter.provisioning.changes import Change
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.provisioning.restarter import Restarter


class Deaths:
    """Wakes the restarters that Jupyter polls every three seconds."""

    def __init__(self, kernels: BackendAIMappingKernelManager) -> None:
        self._kernels = kernels

    def look(self, changes: Sequence[Change]) -> None:
        """Wake the restarter of each kernel whose program is gone."""
        gone = {c.notice.kernel_id for c in changes if c.notice.exit_code is not None}
        if gone:
            for member_id, restarter in self._restarters():
                if member_id in gone:
                    self._kernels.supervisor.task(f"restart {member_id}", restarter.look())

    def _restarters(self) -> list[tuple[str, Restarter]]:
        found = []
        for kernel_id in self._kernels.list_kernel_ids():
            manager: Any = self._kernels.get_kernel(kernel_id)
            restarter, provisioner = manager._restarter, manager.provisioner
            if isinstance(restarter, Restarter) and isinstance(provisioner, BackendAIProvisioner):
                place = provisioner.place
                found.append((place.kernel_id if place else "", restarter))
        return found
