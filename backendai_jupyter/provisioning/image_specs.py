"""Make a kernelspec for an image that no ``kernel.json`` names, from what its labels say."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence

from jupyter_client.kernelspec import KernelSpec

from backendai_jupyter.domain.images import strictest
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image

PREFIX = "backendai-"  # of the kernelspec that is made for an image, before its name
LABEL_PROGRAM = "ai.backend.runtime-type"  # e.g. ``python``: which kernel program is inside
LABEL_PATH = "ai.backend.runtime-path"  # e.g. ``/usr/bin/python``: what to call for it
LABEL_TITLE = "ai.backend.kernelspec.display-name"  # what the launcher shows

_VALID_NAME = re.compile(r"[a-z0-9._-]+")  # what jupyter_client takes for a kernelspec


def name_for(image: str) -> str | None:
    """Return what the kernelspec of an image is called; None if Jupyter takes no such name."""
    name = f"{PREFIX}{image}".lower()
    return name if _VALID_NAME.fullmatch(name) else None


def template_for(images: Iterable[Image]) -> str:
    """Return which kernelspec would start the program in images of one name; empty if unsaid."""
    programs = {image.labels.get(LABEL_PROGRAM, "") for image in images}
    return f"{PREFIX}{programs.pop()}" if len(programs) == 1 else ""


def spec_for(images: Sequence[Image], template: KernelSpec) -> KernelSpec:
    """Return ``template`` with the images of one name, on several agents, in its place.

    Its kernels are given what the template's are, or what the images ask for if that is more.
    """
    labels = images[0].labels
    spec = copy.deepcopy(template)
    spec.display_name = labels.get(LABEL_TITLE) or f"{images[0].name} (Backend.AI)"
    if path := labels.get(LABEL_PATH):
        spec.argv = [path, *spec.argv[1:]]
    config = spec.metadata["kernel_provisioner"]["config"]
    config["image"] = images[0].name
    config["resources"] = _raised(config.get("resources", {}), strictest(images))
    return spec


def _raised(usual: Mapping[str, object], least: Slots) -> dict[str, object]:
    slots = Slots.parse(usual, field="resources")
    more = Slots({slot: amount for slot, amount in least.items() if amount > slots[slot]})
    return {**usual, **more.to_json()}
