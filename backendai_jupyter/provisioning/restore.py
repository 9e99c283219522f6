"""Give a starting Jupyter Server the kernels of the server before it."""

from __future__ import annotations

import logging
from pathlib import PurePosixPath

from backendai_jupyter.domain.mounts import HOME
from backendai_jupyter.domain.options import MountOption, Options
from backendai_jupyter.manager.shared import shared
from backendai_jupyter.manager.survivors import Survivor, survivors
from backendai_jupyter.manager.vfolders import contents_path_of
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.glance import glance
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.requested import ServerRequest

log = logging.getLogger(__name__)

_SURVIVORS_TIMEOUT_S = 20.0


def restore_kernels(backend: Backend, kernels: BackendAIMappingKernelManager) -> None:
    """Register what survived, under the ids that it had; call it before the server serves.

    A kernel that cannot be managed any more, because its kernelspec is gone, runs on and is
    only seen in our own lists.  In a cluster the others are there too: starts under way are
    theirs, and what cannot be reached yet comes by itself.
    """
    for survivor in _found(backend):
        request = request_of(survivor)
        state = glance(survivor.connection).state
        try:
            kernels.restore(survivor, request, backend, state=state)
        except Exception:  # one that cannot be restored must not cost the others
            log.exception("kernel %s of the former server is not restored", survivor.name)


def _found(backend: Backend) -> list[Survivor]:
    manager = backend.manager
    if backend.settings.in_cluster:
        return list(backend.call_blocking(shared(manager, manager.viewer)).reachable.values())
    return backend.call_blocking(survivors(manager, timeout_s=_SURVIVORS_TIMEOUT_S))


def request_of(survivor: Survivor) -> ServerRequest:
    """Return what asks for the same again, should the session have to be replaced."""
    session, kernel = survivor.session, survivor.kernel
    mounts = [
        MountOption(m.vfolder_name, PurePosixPath(m.target).name, m.readonly)
        for m in kernel.mounts
        if m.vfolder_name
    ]
    options = Options(
        resources=kernel.slots,
        mounts=None if kernel.shows_all else mounts,
        shm=kernel.shm_bytes or None,
        env=kernel.env,
        cluster_size=len(session.kernels),
        cluster_mode=session.cluster_mode,
        failure_policy=session.failure_policy,
        startup=dict(session.startup),
    )
    directory = (
        "" if kernel.workdir == str(HOME) else contents_path_of(kernel.workdir, kernel.mounts)
    )
    return ServerRequest((options,), directory or "", None)
