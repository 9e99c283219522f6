"""Follow a Docker Engine's events on one thread, and resume after the connection broke."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import requests
from docker.errors import APIError, DockerException

from backendai_jupyter.agent.runtime.docker_engine import connect
from backendai_jupyter.errors import RuntimeFailed

log = logging.getLogger(__name__)

RETRY_DELAY_S = 1.0
JOIN_TIMEOUT_S = 5.0
# Not by label: when the engine tells that an image is gone, it knows its labels no more.
_FILTERS = {
    "type": ["container", "image"],
    "event": ["die", "delete", "import", "load", "pull", "tag", "untag"],
}


class EngineEvents:
    """Tells of containers that died and of images that came, went or changed their names.

    ``on_exit`` gets the labels of each such container, whosever it is, and is called from this
    object's own thread, as is ``on_images``.  ``since`` is the engine's clock, as it tells it
    itself; after a broken connection the thread asks for all that happened since the last event
    it saw, so that one may come twice but none is skipped as long as the engine itself remembers
    it.
    """

    def __init__(
        self,
        url: str | None,
        *,
        since: str,
        on_exit: Callable[[Mapping[str, str]], None],
        on_images: Callable[[], None],
    ) -> None:
        self._url = url
        self._since = f"{datetime.fromisoformat(since).timestamp():.6f}"
        self._on_exit = on_exit
        self._on_images = on_images
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._told = ""  # why there are no events now, as far as it was logged
        # A daemon, because it holds nothing that an abrupt end of the process could hurt.
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Tell no more; blocks until the thread has ended."""
        self._closing.set()
        with self._lock:
            self._cut()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            why: object = "it ended the connection"
            try:
                self._follow()
            except (RuntimeFailed, DockerException, requests.RequestException, OSError) as error:
                why = error
            if not self._closing.is_set() and str(why) != self._told:
                self._told = str(why)  # once, however long the engine is away
                log.warning("The Docker Engine's events are interrupted: %s", why)
            self._closing.wait(RETRY_DELAY_S)

    def _follow(self) -> None:
        """Pass events on until the connection ends."""
        client = connect(self._url, connections=2)
        try:
            stream = client.events(since=self._since, filters=_FILTERS, decode=True)
            with self._lock:
                self._stream = stream
                if self._closing.is_set():
                    self._cut()
            self._told = ""
            for event in stream:
                self._since = _stamp(int(event["timeNano"]))
                if event["Type"] == "image":
                    self._on_images()
                else:
                    _wait_until_listed(client, event["Actor"]["ID"])
                    self._on_exit(event["Actor"]["Attributes"])
        finally:
            with self._lock:
                self._stream = None
            client.close()

    def _cut(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # the engine may have been faster
                self._stream.close()


def _wait_until_listed(client: Any, container_id: str) -> None:
    """Return when the engine's list says, too, that a container of which it told has died.

    It tells before it is done, and lists the container as running for some time.  Asked about
    the one, it waits for itself.
    """
    with contextlib.suppress(APIError):  # it may be removed already
        client.inspect_container(container_id)


def _stamp(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
