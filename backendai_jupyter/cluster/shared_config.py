"""Settings that administrators put into the cluster store, and processes take from there.

Each scope has at most one value of a setting, and the narrowest scope wins::

    default < global < group:NAME, a resource group < node:ID, one agent < the process's own

A manager belongs to no group and no node.  What a process's own configuration says, no scope
overrides.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from traitlets.config import Configurable

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.config.agent import NODE_NAME
from backendai_jupyter.config.shared import SECTIONS, checked, own_names, read_json, shared_names
from backendai_jupyter.errors import BackendError, InvalidInput, NotFound
from backendai_jupyter.supervisor import Loop

log = logging.getLogger(__name__)

GLOBAL = "global"
_MAX_BACKOFF_S = 5.0


def manager_scopes() -> tuple[str, ...]:
    return (GLOBAL,)


def agent_scopes(settings: BackendAIAgent) -> tuple[str, ...]:
    """Return where an agent looks, the narrowest scope last."""
    return (GLOBAL, f"group:{settings.resource_group}", f"node:{settings.agent_id}")


class SharedConfig:
    """Keeps the settings of one process as the cluster store has them.

    A wrong value changes nothing: the last right one of its key stays, and a line in the log
    and a note say what is wrong until it is corrected or deleted.
    """

    def __init__(self, store: ClusterStore, settings: Configurable, scopes: Sequence[str]) -> None:
        self._store = store
        self._settings = settings
        self._section = type(settings).__name__
        self._scopes = scopes
        names = set(shared_names(type(settings))) - own_names(settings)
        self._unshared = {name: getattr(settings, name) for name in sorted(names)}
        self._values: dict[str, Any] = {}  # by key: the last right one
        self._problems: dict[str, str] = {}  # by key

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each value that is not applied because it is wrong."""
        return tuple(
            f"{key} is not applied: {problem}" for key, problem in sorted(self._problems.items())
        )

    async def read(self) -> None:
        """Take what the store has now; may raise ``Unavailable``."""
        await self._read()

    async def follow(self, changed: Callable[[], None]) -> None:
        """Take every change too, and call ``changed`` after it, until cancelled."""
        step = partial(self._follow, changed)
        await Loop(
            "shared configuration",
            step,
            period_s=0,
            max_backoff_s=_MAX_BACKOFF_S,
            expected=(BackendError,),
        ).run()

    async def _follow(self, changed: Callable[[], None]) -> None:
        revision, is_news = await self._read()
        if is_news:
            changed()
        async with self._store.watch(keys.SETTINGS, after=revision) as batches:
            async for batch in batches:
                if self._take((change.key, change.value) for change in batch):
                    changed()

    async def _read(self) -> tuple[int, bool]:
        listing = await self._store.list(keys.SETTINGS)
        there = {entry.key: entry.value for entry in listing.entries}
        gone = dict.fromkeys((self._values.keys() | self._problems.keys()) - there.keys())
        return listing.revision, self._take({**gone, **there}.items())

    def _take(self, texts: Iterable[tuple[str, str | None]]) -> bool:
        """Return whether a setting or a note is another one now; ``None``: the key is gone."""
        notes = self.notes()
        for key, text in texts:
            if self._concerns(key):
                self._note(key, text)
        return self._apply() or self.notes() != notes

    def _concerns(self, key: str) -> bool:
        scope, name = keys.scope_and_name(key)
        section = name.partition(".")[0]
        return scope in self._scopes and (section == self._section or section not in SECTIONS)

    def _note(self, key: str, text: str | None) -> None:
        if text is None:
            self._values.pop(key, None)
            self._problems.pop(key, None)
            return
        name = keys.scope_and_name(key)[1]
        try:
            self._values[key] = checked(name, read_json(text, field=name))
        except InvalidInput as error:
            if self._problems.get(key) != error.problem:
                log.error("%s is not applied: %s", key, error.problem)
            self._problems[key] = error.problem
        else:
            self._problems.pop(key, None)

    def _apply(self) -> bool:
        differs = False
        for name, unshared in self._unshared.items():
            value = self._shared(f"{self._section}.{name}", unshared)
            if value != getattr(self._settings, name):
                setattr(self._settings, name, value)
                log.info("%s.%s is %r now", self._section, name, value)
                differs = True
        return differs

    def _shared(self, name: str, unshared: Any) -> Any:
        for scope in reversed(self._scopes):
            key = keys.setting(scope, name)
            if key in self._values:
                return self._values[key]
        return unshared


# What administrators do


@dataclass(frozen=True, slots=True)
class SharedSetting:
    scope: str
    name: str
    value: Any  # None where it cannot be shown
    problem: str = ""


def check_scope(scope: str) -> None:
    """Raise ``InvalidInput`` unless it is ``global``, ``group:NAME`` or ``node:ID``."""
    kind, _, name = scope.partition(":")
    if scope != GLOBAL and not (kind in {"group", "node"} and NODE_NAME.fullmatch(name)):
        raise InvalidInput("scope", f"{scope!r} is none of global, group:NAME and node:ID")


def read_settings(text: str, *, field: str) -> dict[str, Any]:
    """Return settings by full name from a JSON object of them, or of whole sections.

    Raises ``InvalidInput`` naming what is malformed; what the values are is not looked at.
    """
    raw = read_json(text, field=field)
    if not isinstance(raw, dict):
        raise InvalidInput(field, "is no JSON object of settings")
    found: dict[str, Any] = {}
    for name, value in raw.items():
        members = {name: value}
        if name in SECTIONS:
            if not isinstance(value, dict):
                raise InvalidInput(name, "is a section, so an object of its settings belongs here")
            members = {f"{name}.{trait}": one for trait, one in value.items()}
        for full_name, one in members.items():
            if full_name in found:
                raise InvalidInput(full_name, "is there twice")
            found[full_name] = one
    return found


async def put_settings(
    store: ClusterStore, scope: str, settings: Mapping[str, Any]
) -> list[SharedSetting]:
    """Write all of them in one transaction, so that processes take them together.

    Raises ``InvalidInput`` naming one that is wrong.  There are fewer settings than a transaction
    may have.
    """
    check_scope(scope)
    for name, value in settings.items():
        _check(scope, name, value)
    await store.put_all({keys.setting(scope, n): json.dumps(v) for n, v in settings.items()})
    return [SharedSetting(scope, name, value) for name, value in settings.items()]


async def list_settings(store: ClusterStore) -> list[SharedSetting]:
    """Return what every scope has, whether it is right or wrong."""
    listing = await store.list(keys.SETTINGS)
    return [_read_entry(entry.key, entry.value) for entry in listing.entries]


async def delete_setting(store: ClusterStore, scope: str, name: str) -> SharedSetting:
    """Let the next wider scope decide again, and return what was there, right or wrong."""
    check_scope(scope)
    entry = await store.get(keys.setting(scope, name))
    if entry is None:
        raise NotFound(f"{name} is not shared in the scope {scope}.")
    await store.delete(entry.key)
    return _read_entry(entry.key, entry.value)


def _check(scope: str, name: str, value: Any) -> None:
    checked(name, value)
    if scope != GLOBAL and name.startswith(f"{BackendAI.__name__}."):
        raise InvalidInput(name, "managers share settings in the scope global only")


def _read_entry(key: str, text: str) -> SharedSetting:
    scope, name = keys.scope_and_name(key)
    try:
        value = read_json(text, field=name)
        _check(scope, name, value)
    except InvalidInput as error:  # of what may not be shared, it could tell a password
        return SharedSetting(scope, name, None, error.problem)
    return SharedSetting(scope, name, value)
