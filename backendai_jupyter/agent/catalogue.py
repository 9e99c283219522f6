"""What this node may fetch from registries: the images that its settings name, as they are now."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from backendai_jupyter.agent.registry import Description, RegistryClient
from backendai_jupyter.agent.runtime.docker_engine import LABEL_IMAGE_NAME, LABEL_KERNELSPEC
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.config.registries import Registry, registry_of
from backendai_jupyter.domain.images import minimum_of
from backendai_jupyter.domain.references import Reference
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import BackendError, InvalidInput, PullFailed, RegistryAway

log = logging.getLogger(__name__)

AT_ONCE = 4  # conversations with registries
_RUNTIME = "docker"


@dataclass(frozen=True, slots=True)
class Offer:
    """An image of a registry that kernels may be made of."""

    description: Description
    registry: Registry

    @property
    def image(self) -> Image:
        labels = dict(self.description.labels)
        return Image(
            name=labels[LABEL_IMAGE_NAME],
            reference=str(self.description.reference),
            runtime=_RUNTIME,
            digest=self.description.digest,
            size_bytes=self.description.size_bytes,
            labels=labels,
        )


class Catalogue:
    """Remembers what registries have said, also while one of them is away."""

    def __init__(self, settings: BackendAIAgent) -> None:
        self._settings = settings
        self._offers: dict[Reference, Offer] = {}
        self._problems: dict[Reference, str] = {}  # why something is not offered, in words

    @property
    def offers(self) -> dict[str, Offer]:
        """The images by name; of two with one name the first of the settings."""
        found: dict[str, Offer] = {}
        for reference in self._wanted():
            if reference in self._offers:
                offer = self._offers[reference]
                found.setdefault(offer.image.name, offer)
        return found

    def notes(self) -> tuple[str, ...]:
        """Return why images of the settings are not offered, a sentence each."""
        return tuple(self._problems[one] for one in self._wanted() if one in self._problems)

    async def refresh(self) -> None:
        """Look at every image of the settings again; what is wrong with one becomes a note."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def look(reference: Reference) -> None:
            async with slots:
                await self._look(reference)

        wanted = self._wanted()
        await asyncio.gather(*(look(one) for one in wanted))
        self._offers = {one: offer for one, offer in self._offers.items() if one in wanted}
        self._problems = {one: text for one, text in self._problems.items() if one in wanted}

    async def read(self, known: Offer) -> Offer:
        """Return what the registry has by the same reference now; raises a ``PullFailed``."""
        reference = known.description.reference
        offer = await asyncio.to_thread(self._read, reference)
        self._offers[reference] = offer
        return offer

    async def _look(self, reference: Reference) -> None:
        known = self._offers.get(reference)
        try:
            if known is None or not await asyncio.to_thread(self._is_still, known):
                self._offers[reference] = await asyncio.to_thread(self._read, reference)
        except RegistryAway as error:  # it may come back; what it had is not gone
            self._problem(reference, str(error))
        except BackendError as error:
            self._offers.pop(reference, None)
            self._problem(reference, f"{reference} is not offered: {error}")
        else:
            self._problems.pop(reference, None)

    def _problem(self, reference: Reference, text: str) -> None:
        if self._problems.get(reference) != text:
            log.warning("%s", text)
        self._problems[reference] = text

    def _wanted(self) -> tuple[Reference, ...]:
        return () if self._settings.auto_pull == "none" else self._settings.wanted_images()

    # What follows blocks.

    def _is_still(self, known: Offer) -> bool:
        registry = self._registry(known.description.reference)
        if registry != known.registry:
            return False
        with RegistryClient(registry, known.description.reference) as client:
            return client.digest() == known.description.digest

    def _read(self, reference: Reference) -> Offer:
        registry = self._registry(reference)
        with RegistryClient(registry, reference) as client:
            description = client.describe()
        labels = description.labels
        if labels.get(LABEL_KERNELSPEC) != "1" or not labels.get(LABEL_IMAGE_NAME):
            raise PullFailed(
                f"{reference} is no kernel image: its labels lack {LABEL_KERNELSPEC}=1 or "
                f"{LABEL_IMAGE_NAME}."
            )
        try:
            minimum_of(labels)
        except InvalidInput as error:
            raise PullFailed(f"{error}.") from None
        return Offer(description, registry)

    def _registry(self, reference: Reference) -> Registry:
        return registry_of(reference, self._settings.known_registries())
