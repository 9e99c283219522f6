"""Let a Docker Engine fetch an image: on a thread, with progress, and so that it can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from docker.errors import APIError
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

from backendai_jupyter.agent.registry import Description, refused
from backendai_jupyter.agent.runtime.docker_engine import connect, in_words, root_cause, said
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.wire import PullProgress
from backendai_jupyter.errors import (
    BackendError,
    NoSpace,
    NoSuchImage,
    PullFailed,
    RegistryAway,
    WrongPlatform,
)

TELL_EVERY_S = 0.5  # each telling makes the agent report, and every manager read it
_FETCHED = {"Verifying Checksum", "Download complete", "Extracting", "Pull complete"}
_DONE = {"Pull complete", "Already exists"}


async def pull(
    url: str | None,
    wanted: Description,
    registry: Registry,
    tell: Callable[[PullProgress], None],
) -> None:
    """Return when the engine has the image; cancelled, it makes the engine stop.

    Raises a ``PullFailed`` that says what was wrong.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell_there(progress: PullProgress) -> None:
        loop.call_soon_threadsafe(tell, progress)

    def settle(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            one.run()
        except Exception as caught:  # noqa: BLE001 - it is raised where the pull is awaited
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits
            loop.call_soon_threadsafe(settle, error)

    one = EnginePull(url, wanted, registry, tell_there)
    # A daemon: an engine that waits for a silent registry lets go of nobody, and holds nothing.
    threading.Thread(target=work, name=f"pull {wanted.reference}", daemon=True).start()
    try:
        await ended
    finally:
        one.cancel()


class EnginePull:
    """One pull by one connection: the engine gives up what nobody listens to."""

    def __init__(
        self,
        url: str | None,
        wanted: Description,
        registry: Registry,
        tell: Callable[[PullProgress], None],
    ) -> None:
        self._url = url
        self._wanted = wanted
        self._registry = registry
        self._tell = tell
        self._layers = Layers(wanted.layers)
        self._told_at = float("-inf")
        self._lock = threading.Lock()
        self._cancelled = False
        self._response: Any = None

    def run(self) -> None:
        """Block until it has come."""
        client = connect(self._url, connections=1)
        client.hooks["response"].append(self._answered)
        try:
            with in_words(f"fetch {self._wanted.reference}", self._url):
                self._follow(client)
        except (HTTPError, OSError, ValueError) as error:
            raise PullFailed(
                f"The Docker Engine broke off while it fetched {self._wanted.reference}: "
                f"{root_cause(error)}."
            ) from error
        finally:
            client.close()

    def cancel(self) -> None:
        """Let ``run`` end; idempotent, from any thread."""
        with self._lock:
            self._cancelled = True
            self._cut()

    def _follow(self, client: Any) -> None:
        wanted, login = self._wanted.reference, self._registry.login()
        auth = login and {"username": login.username, "password": login.password}
        try:
            messages = client.pull(
                wanted.name, tag=wanted.tag, stream=True, decode=True, auth_config=auth or {}
            )
            for message in messages:
                if problem := message.get("error"):
                    raise explain(str(problem), self._wanted, self._registry)
                self._take(message)
        except APIError as error:
            raise explain(said(error), self._wanted, self._registry) from error

    def _take(self, message: Mapping[str, Any]) -> None:
        self._layers.take(message)
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            self._tell(self._layers.progress())

    def _answered(self, response: Any, *_: Any, **__: Any) -> None:
        with self._lock:
            self._response = response
            if self._cancelled:
                self._cut()

    def _cut(self) -> None:
        if self._response is not None:
            with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
                CancellableStream(None, self._response).close()


class Layers:
    """What the engine's messages say of the layers of an image; sizes are the registry's."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._fetched = dict.fromkeys(sizes, 0)  # bytes
        self._done: set[str] = set()

    def take(self, message: Mapping[str, Any]) -> None:
        layer, status = str(message.get("id")), message.get("status")
        if layer not in self._sizes:
            return
        if status == "Downloading":
            self._fetched[layer] = int(message.get("progressDetail", {}).get("current", 0))
        elif status in _FETCHED | _DONE:
            self._fetched[layer] = self._sizes[layer]
        if status in _DONE:
            self._done.add(layer)

    def progress(self) -> PullProgress:
        return PullProgress(
            bytes_done=sum(self._fetched.values()),
            bytes_total=sum(self._sizes.values()),
            layers_done=len(self._done),
            layers_total=len(self._sizes),
        )


# What engines say, in small letters, and what it means; the first that is found counts.
_MEANINGS: tuple[tuple[str, type[PullFailed]], ...] = (
    ("no space left on device", NoSpace),
    ("no matching manifest for", WrongPlatform),
    ("cannot be used on this platform", WrongPlatform),
    ("manifest unknown", NoSuchImage),
    ("not found", NoSuchImage),
    ("connection refused", RegistryAway),
    ("connection reset", RegistryAway),
    ("no such host", RegistryAway),
    ("timeout", RegistryAway),
    ("eof", RegistryAway),
    ("x509", RegistryAway),
    ("http response to https client", RegistryAway),
    ("received unexpected http status", RegistryAway),
)
_REFUSALS = ("unauthorized", "denied", "no basic auth credentials", "authentication required")


def explain(problem: str, wanted: Description, registry: Registry) -> BackendError:
    """Return the error that an engine's complaint about a pull means."""
    said_low = problem.lower()
    reference = wanted.reference
    kind = next((kind for sign, kind in _MEANINGS if sign in said_low), PullFailed)
    if kind is NoSpace:
        return NoSpace(f"There is no space for {reference} where the Docker Engine keeps images.")
    if kind is PullFailed and any(sign in said_low for sign in _REFUSALS):
        return refused(registry, reference)
    return kind(f"The Docker Engine could not fetch {reference}: {problem.rstrip('.')}.")
