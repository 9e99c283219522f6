"""Which kernels Jupyter offers: ours where an agent has the image, and the local ones."""

from __future__ import annotations

from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from backendai_jupyter.provisioning.backends import BACKENDS

DEFAULT_KERNEL = "backendai-python"  # offered always: a server without it looks broken
PROVISIONER = "backendai-provisioner"


class BackendAIKernelSpecManager(KernelSpecManager):
    """Reads kernelspecs as usual, and leaves out those that nobody could or should start.

    It is asked on the server's event loop, so it looks only at what the manager has in memory.
    """

    def find_kernel_specs(self) -> dict[str, str]:
        found: dict[str, str] = super().find_kernel_specs()
        return {name: path for name, path in found.items() if self._is_offered(name)}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return a kernelspec; one of ours also without an image, so that a start says why.

        Raises ``NoSuchKernel`` for a local one where those are hidden.
        """
        spec = super().get_kernel_spec(kernel_name)
        if BACKENDS.backend.settings.hide_local_kernelspecs and not is_ours(spec):
            raise NoSuchKernel(kernel_name)
        return spec

    def _is_offered(self, name: str) -> bool:
        try:
            spec = self.get_kernel_spec(name)
        except NoSuchKernel:
            return False
        except Exception:  # noqa: BLE001 - the caller meets the broken file again, and logs it
            return True
        return name == DEFAULT_KERNEL or not is_ours(spec) or _image_of(spec) in _images()


def is_ours(spec: KernelSpec) -> bool:
    """Whether kernels of this spec run on Backend.AI."""
    return bool(_stanza(spec).get("provisioner_name") == PROVISIONER)


def _image_of(spec: KernelSpec) -> object:
    return _stanza(spec).get("config", {}).get("image")


def _stanza(spec: KernelSpec) -> dict[str, Any]:
    stanza: dict[str, Any] = spec.metadata.get("kernel_provisioner", {})
    return stanza


def _images() -> set[str]:
    """Return the names of all images that some alive agent has."""
    reports = BACKENDS.backend.manager.board.reports
    return {image.name for report in reports.values() for image in report.images}
