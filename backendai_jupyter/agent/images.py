"""What this node makes kernels of: the images that are here, and those that it may fetch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

from backendai_jupyter.agent.catalogue import Catalogue, Offer
from backendai_jupyter.agent.pulls import Pulls, Tell
from backendai_jupyter.agent.registry import Description
from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.images import minimum_of
from backendai_jupyter.domain.wire import Image, PullProgress
from backendai_jupyter.errors import BackendError, InvalidInput, LaunchFailed
from backendai_jupyter.points import reached
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)

STEP = "image"  # what a start that needs one calls this


@runtime_checkable
class Puller(Protocol):
    """A runtime that can fetch images."""

    async def pull(
        self, wanted: Description, registry: Registry, tell: Callable[[PullProgress], None]
    ) -> None:
        """Return when it has the image; cancelled, it stops.  Raises a ``PullFailed``."""
        ...


class Images:
    """Knows what the last look has found; ``refresh`` and ``look_at_registries`` look."""

    def __init__(
        self,
        runtimes: Mapping[str, KernelRuntime],
        settings: BackendAIAgent,
        supervisor: Supervisor,
    ) -> None:
        self._runtimes = runtimes
        self._settings = settings
        self._catalogue = Catalogue(settings)
        self._pulls = Pulls(supervisor)
        self._puller = next((r for r in runtimes.values() if isinstance(r, Puller)), None)
        self._found: dict[str, list[Image]] = {}  # by name, best first
        self._silent: dict[str, BackendError] = {}  # why a runtime has not said what it has
        self._refused: list[str] = []  # in words
        self._looked = asyncio.Event()  # at registries, once

    @property
    def here(self) -> dict[str, Image]:
        """The images that a kernel can be made of at once, by name."""
        offers = self._offers()
        chosen = {name: self._local(name, offers.get(name)) for name in self._found}
        return {name: image for name, image in chosen.items() if image is not None}

    @property
    def pullable(self) -> dict[str, Image]:
        """The images that have to be fetched first."""
        here = self.here
        return {name: o.image for name, o in self._offers().items() if name not in here}

    def known(self, name: str) -> Image | None:
        """Return what is here by a name, be it out of date."""
        return next(iter(self._found.get(name, ())), None)

    def notes(self) -> tuple[str, ...]:
        """Return why images are not offered, a sentence each."""
        return (*self._refused, *(self._catalogue.notes() if self._puller is not None else ()))

    async def refresh(self) -> None:
        """Learn again what is here; what a runtime does not say is not."""
        found: dict[str, list[Image]] = {}
        silent: dict[str, BackendError] = {}
        refused: list[str] = []
        for runtime in self._runtimes.values():
            try:
                listed: Iterable[Image] = await runtime.images()
            except BackendError as error:
                log.warning("images of the %s runtime are unknown: %s", runtime.name, error)
                silent[runtime.name] = error
                continue
            for image in listed:
                if problem := _unsound(image):
                    refused.append(problem)
                else:
                    found.setdefault(image.name, []).append(image)
        self._found, self._silent, self._refused = found, silent, refused

    async def look_at_registries(self) -> None:
        """Learn again what may be fetched."""
        try:
            if self._puller is not None:
                await self._catalogue.refresh()
        finally:
            self._looked.set()

    async def provide(
        self, name: str, *, is_first: bool, tell: Tell, last_runtime: str = ""
    ) -> Image:
        """Return an image to start a kernel from, fetched if need be; ``tell`` hears of that.

        Only a kernel's first program (``is_first``) waits for a newer one than is here.  One
        that follows another starts in no other runtime while the ``last_runtime`` is away.
        Raises ``LaunchFailed`` that says why there is none.
        """
        if last_runtime in self._silent or (self._silent and self.known(name) is None):
            await self.refresh()  # that may be long ago
        if (silence := self._silent.get(last_runtime)) is not None:
            raise _unknown(silence) from silence
        known = self.known(name)
        if known is None or (is_first and not self._is_certain(known)):
            await self._looked.wait()  # an agent that has just begun does not know registries yet
        offer = self._offers().get(name)
        image = self._local(name, offer) or (None if is_first else known)
        if image is not None:
            return image
        if offer is None:
            for silence in self._silent.values():
                raise _unknown(silence) from silence
            raise LaunchFailed(
                STEP,
                f"This agent has no image {name!r}; "
                f"build it with 'jupyter backendai image build {name}'.",
            )
        try:
            await self._pulls.join(offer.image.reference, partial(self._pull, offer), tell)
        except BackendError as error:
            raise LaunchFailed(STEP, str(error), cause=error.code) from error
        image = self._local(name, self._offers().get(name))
        if image is None:
            raise LaunchFailed(
                STEP, f"{offer.image.reference} was fetched, and is no image {name!r} any more."
            )
        return image

    async def _pull(self, known: Offer, tell: Tell) -> None:
        assert self._puller is not None
        await reached("agent.pull.begins")
        offer = await self._catalogue.read(known)  # says more clearly than an engine what is wrong
        await self._puller.pull(offer.description, offer.registry, tell)
        await self.refresh()
        await reached("agent.pull.done")

    def _is_certain(self, image: Image) -> bool:
        """Whether a kernel is made of an image that is here, whatever registries have."""
        is_fetched_kind = isinstance(self._runtimes[image.runtime], Puller)
        return is_fetched_kind and self._settings.auto_pull != "digest"

    def _offers(self) -> dict[str, Offer]:
        return self._catalogue.offers if self._puller is not None else {}

    def _local(self, name: str, offer: Offer | None) -> Image | None:
        """Return the image of this name that needs no fetching, if there is one."""
        local = self._found.get(name, [])
        if offer is None:
            return next(iter(local), None)
        # A container comes before a sandbox, be it that its image has to be fetched.
        alike = [image for image in local if image.runtime == offer.image.runtime]
        current = [image for image in alike if image.digest in offer.description.digests]
        if self._settings.auto_pull == "digest":
            return next(iter(current), None)
        return next(iter(current or alike), None)


def _unknown(silence: BackendError) -> LaunchFailed:
    """Return what a start fails by whose image a runtime may have, and does not say."""
    return LaunchFailed(STEP, str(silence), cause=silence.code)


def _unsound(image: Image) -> str:
    """Return in words which label of an image cannot be understood; empty if there is none."""
    try:
        minimum_of(image.labels)
    except InvalidInput as error:
        return f"The image {image.reference} is not offered: {error}."
    return ""
