"""Read and save files, of which notebooks are parsed, checked and signed."""

# nbformat carries no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import fnmatch
import functools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import nbformat

from backendai_jupyter.contents import models, operations
from backendai_jupyter.contents.models import Model
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.storage.beneath import Home

# What is smaller is converted at once, in a millisecond: another thread would be handed memory
# that it gives back to the system and gets anew each time.
INLINE_BYTES = 4 << 20

T = TypeVar("T")


class Notebooks:
    """The part of the contents manager that knows what is in a file.

    ``manager`` is the contents manager, whose settings and signatures are used.  Signatures
    are in an SQLite database that only the thread that opened it may use.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._notary_thread = ThreadPoolExecutor(1, "notebook signatures")

    async def get(
        self,
        home: Home,
        names: tuple[str, ...],
        *,
        content: bool,
        kind: str | None,
        format: str | None,
        hashed: bool,
    ) -> Model:
        """Return the model of a file or directory that is not the root."""
        if not content:
            algorithm = self._manager.hash_algorithm if hashed else None
            return _as(kind, await asyncio.to_thread(operations.describe, home, names, algorithm))
        read = functools.partial(operations.read, shown=self._shown)
        model, raw = await asyncio.to_thread(read, home, names)
        if raw is None:
            return model
        model = _as(kind, model)
        if model["type"] == "notebook":
            await self._add_notebook(model, raw)
        else:
            encode = functools.partial(models.encoded, raw, format, path=model["path"])
            encoded = await _on_thread_if(len(raw) > INLINE_BYTES, encode)
            models.add_content(model, encoded)
        if hashed:
            await asyncio.to_thread(models.add_hash, model, raw, self._manager.hash_algorithm)
        return model

    async def save(self, home: Home, model: Model, names: tuple[str, ...]) -> Model:
        """Write a file or notebook whole, and return its model."""
        if model["type"] == "file":
            data = await decoded(model)
            return _as("file", await asyncio.to_thread(operations.write, home, names, data))
        data, invalid = await self._sign(model, "/".join(names))
        saved = _as("notebook", await asyncio.to_thread(operations.write, home, names, data))
        checked: Model = self._manager.validate_notebook_model(saved, invalid)
        return checked

    async def trust(self, home: Home, names: tuple[str, ...]) -> None:
        """Let the outputs of a notebook be shown as its own user's."""
        model = await self.get(
            home, names, content=True, kind="notebook", format=None, hashed=False
        )
        await self._ask_notary(self._mark_and_sign, model["content"], model["path"])

    async def close(self) -> None:
        """Close the database of signatures."""
        if self._manager.trait_has_value("notary"):
            await self._ask_notary(self._manager.notary.store.close)
        self._notary_thread.shutdown()

    async def _add_notebook(self, model: Model, raw: bytes) -> None:
        invalid: dict[str, Any] = {}
        read = functools.partial(_parse, path=model["path"], invalid=invalid)
        notebook = await asyncio.to_thread(read, raw)
        await self._ask_notary(self._manager.mark_trusted_cells, notebook, model["path"])
        model.update(content=notebook, format="json", mimetype=None)
        self._manager.validate_notebook_model(model, invalid)

    async def _sign(self, model: Model, path: str) -> tuple[bytes, dict[str, Any]]:
        content = model.get("content")
        if not isinstance(content, dict) or not isinstance(content.get("nbformat"), int):
            raise InvalidInput("content", "expected a notebook, an object that has an nbformat")
        invalid: dict[str, Any] = {}
        notebook = nbformat.from_dict(content)
        data = await asyncio.to_thread(_print, notebook, invalid)
        await self._ask_notary(self._manager.check_and_sign, notebook, path)
        return data, invalid

    def _mark_and_sign(self, notebook: Any, path: str) -> None:
        self._manager.notary.mark_cells(notebook, True)
        self._manager.check_and_sign(notebook, path)

    async def _ask_notary(self, work: Any, *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._notary_thread, work, *arguments)

    def _shown(self, name: str) -> bool:
        if name.startswith(".") and not self._manager.allow_hidden:
            return False
        return not _any_of(tuple(self._manager.hide_globs)).match(name)


async def decoded(model: Model) -> bytes:
    """Return the bytes of a model's content."""
    content = model.get("content")
    is_large = isinstance(content, str) and len(content) > INLINE_BYTES
    return await _on_thread_if(is_large, lambda: models.decoded(content, model.get("format")))


async def _on_thread_if(is_large: bool, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if is_large else work()


def _as(kind: str | None, model: Model) -> Model:
    """Return the model as a client asked for it: any file may be shown as plain bytes."""
    if kind in {"file", "notebook"} and model["type"] in {"file", "notebook"}:
        model["type"] = kind
    return model


def _parse(raw: bytes, *, path: str, invalid: dict[str, Any]) -> Any:
    try:
        return nbformat.reads(raw.decode(), as_version=4, capture_validation_error=invalid)
    except Exception as error:  # nbformat raises whatever its input provokes
        raise InvalidInput("content", f"{path!r} is not a readable notebook: {error}") from error


def _print(notebook: Any, invalid: dict[str, Any]) -> bytes:
    try:
        text: str = nbformat.writes(
            notebook, version=nbformat.NO_CONVERT, capture_validation_error=invalid
        )
    except Exception as error:  # as above
        raise InvalidInput("content", f"not a notebook: {error}") from error
    return text.encode()


@functools.cache
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)")
