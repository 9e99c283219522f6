"""What the REST API says of images: who has them, and who fetches them when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, RootModel

from backendai_jupyter.domain import wire
from backendai_jupyter.web.models import Model


class Image(Model):
    """An image that kernels can start from."""

    name: str
    reference: str
    runtime: str
    digest: str
    size_bytes: int
    labels: dict[str, str]
    agents: list[str] = Field(description="ids of the agents that have it")
    pullable_by: list[str] = Field(
        default=[], description="ids of the agents that fetch it from its registry when needed"
    )


class ImageList(RootModel[list[Image]]):
    """The images that alive agents have or may fetch, by name."""


def images_of(reports: Mapping[str, wire.AgentReport]) -> ImageList:
    """Return what the agents report, an image that several have only once."""
    having: dict[tuple[str, ...], list[str]] = {}
    fetching: dict[tuple[str, ...], list[str]] = {}
    found: dict[tuple[str, ...], wire.Image] = {}
    for agent_id, report in sorted(reports.items()):
        for images, agents in ((report.images, having), (report.pullable, fetching)):
            for image in images:
                key = (image.name, image.runtime, image.reference, image.digest)
                found.setdefault(key, image)
                agents.setdefault(key, []).append(agent_id)
    return ImageList(
        [image_of(found[key], having.get(key, ()), fetching.get(key, ())) for key in sorted(found)]
    )


def image_of(image: wire.Image, agents: Sequence[str], pullable_by: Sequence[str] = ()) -> Image:
    return Image(**image.model_dump(), agents=list(agents), pullable_by=list(pullable_by))
