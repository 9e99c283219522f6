"""A second Docker Engine that begins with no image at all, for tests of how images come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import PrivateEngine, _get_commands


class EmptyEngine(PrivateEngine):
    """Its containers are on no network, and it tries a download that fails only once."""

    def __init__(self, data: Path | None = None) -> None:
        """``data`` is where it keeps images, by default with its other files."""
        super().__init__()
        self._bridge = f"{self._bridge}{'s' if data else 'e'}"  # a name; there is none
        self.data = data or self.state / "data"

    def start(self) -> None:
        _get_commands()
        self.data.mkdir(exist_ok=True)
        self._launch()

    def forget_images(self) -> None:
        """Have none again."""
        client = self.client()
        try:
            for image in client.images(all=True):
                for tag in image["RepoTags"] or ():
                    client.remove_image(tag, force=True)
            client.prune_images({"dangling": True})
        finally:
            client.close()

    def _options(self, data: Path) -> list[str]:
        options = super()._options(data)
        options[options.index("--bridge") + 1] = "none"
        return [*options, "--max-download-attempts", "1"]


@pytest.fixture(scope="session")
def _empty_engine() -> Iterator[EmptyEngine]:
    engine = EmptyEngine()
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def empty_engine(_empty_engine: EmptyEngine) -> Iterator[EmptyEngine]:
    """An engine without images; what a test has brought is gone after it."""
    yield _empty_engine
    _empty_engine.forget_images()
