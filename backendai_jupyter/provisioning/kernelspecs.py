"""Which kernels Jupyter offers: ours where an agent has or may fetch the image, and local ones."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.image_specs import PREFIX, name_for, spec_for, template_for

DEFAULT_KERNEL = "backendai-python"  # offered always: a server without it looks broken
PROVISIONER = "backendai-provisioner"


class BackendAIKernelSpecManager(KernelSpecManager):
    """Reads kernelspecs as usual, leaves out those that nobody could or should start, and adds
    one for each image that none of them names.

    It is asked on the server's event loop, so it looks only at what the manager has in memory.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._made: dict[str, KernelSpec] = {}  # for images, also of those that have gone since

    def find_kernel_specs(self) -> dict[str, str]:
        found: dict[str, str] = super().find_kernel_specs()
        specs, images = {name: self._read(name) for name in found}, _images()
        named = {_image_of(spec) for spec in specs.values() if spec and is_ours(spec)}
        unnamed = {image: alike for image, alike in images.items() if image not in named}
        offered = {n: path for n, path in found.items() if _is_offered(n, specs[n], images)}
        return {**self._make(unnamed, specs), **offered}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return a kernelspec; one of ours also without an image, so that a start says why.

        Raises ``NoSuchKernel`` for a local one where those are hidden.
        """
        try:
            spec = super().get_kernel_spec(kernel_name)
        except NoSuchKernel:
            return self._of_image(kernel_name.lower())
        if BACKENDS.backend.settings.hide_local_kernelspecs and not is_ours(spec):
            raise NoSuchKernel(kernel_name)
        return spec

    def _read(self, name: str) -> KernelSpec | None:
        """Return a kernelspec from its file; None for a broken one, which the caller will log."""
        try:
            return super().get_kernel_spec(name)
        except Exception:  # noqa: BLE001 - a file of anybody's
            return None

    def _make(
        self, images: Mapping[str, Sequence[Image]], specs: Mapping[str, KernelSpec | None]
    ) -> dict[str, str]:
        """Make kernelspecs for images where one of ``specs`` starts the program inside."""
        made: dict[str, str] = {}
        for alike in images.values():
            name, template = name_for(alike[0].name), specs.get(template_for(alike))
            if name is None or name in specs or template is None or not is_ours(template):
                continue
            if not self.allowed_kernelspecs or name in self.allowed_kernelspecs:
                self._made[name] = spec_for(alike, template)
                made[name] = self._made[name].resource_dir
        return made

    def _of_image(self, name: str) -> KernelSpec:
        """Return the kernelspec of an image that no file names; of one not seen yet a guess.

        Its kernels may run, and then a server that has just started needs one for them.
        """
        if name in self._made:
            return self._made[name]
        if not name.startswith(PREFIX) or name == DEFAULT_KERNEL:
            raise NoSuchKernel(name)
        unseen = Image(name=name.removeprefix(PREFIX), reference="", runtime="")
        return spec_for([unseen], super().get_kernel_spec(DEFAULT_KERNEL))


def _is_offered(name: str, spec: KernelSpec | None, images: Container[str]) -> bool:
    if spec is None:
        return True
    if not is_ours(spec):
        return not BACKENDS.backend.settings.hide_local_kernelspecs
    return name == DEFAULT_KERNEL or _image_of(spec) in images


def request_of(specs: KernelSpecManager, name: str, asked: Mapping[str, object]) -> Request:
    """Return the request for a kernel of the spec ``name`` with the ``backendai`` object ``asked``.

    Raises ``InvalidInput`` naming the field, and for a spec that is not there or not ours.
    """
    try:
        spec = specs.get_kernel_spec(name)
    except NoSuchKernel:
        raise InvalidInput("kernelspec", f"there is no kernelspec {name!r}") from None
    if not is_ours(spec):
        raise InvalidInput("kernelspec", f"kernels of {name!r} do not run on Backend.AI")
    resources = _stanza(spec).get("config", {}).get("resources", {})
    return Request(
        kernelspec=name,
        image=_image_of(spec),
        argv=tuple(spec.argv),
        defaults=Options(resources=Slots.parse(resources)),
        layers=(Options.parse(asked),),
    )


def is_ours(spec: KernelSpec) -> bool:
    """Whether kernels of this spec run on Backend.AI."""
    return bool(_stanza(spec).get("provisioner_name") == PROVISIONER)


def _image_of(spec: KernelSpec) -> str:
    return str(_stanza(spec).get("config", {}).get("image", ""))


def _stanza(spec: KernelSpec) -> dict[str, Any]:
    stanza: dict[str, Any] = spec.metadata.get("kernel_provisioner", {})
    return stanza


def _images() -> dict[str, list[Image]]:
    """Return the images that some alive agent has or may fetch, by name."""
    found: dict[str, list[Image]] = {}
    for report in BACKENDS.backend.manager.board.reports.values():
        for image in report.offered:
            found.setdefault(image.name, []).append(image)
    return found
