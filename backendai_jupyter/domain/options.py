"""What a person may ask for beside a kernel: the ``backendai`` object.

The same object comes with ``POST /api/kernels`` and ``POST /api/sessions``, stands in a
notebook's metadata, and is spelled out in ``BACKENDAI_*`` variables for tools that have no
server.  Each such source is a layer; later layers win, slot by slot and variable by
variable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from backendai_jupyter.domain.cluster import (
    FailurePolicy,
    read_mode,
    read_policy,
    read_size,
    read_startup,
)
from backendai_jupyter.domain.resources import Slots, parse_size
from backendai_jupyter.domain.vfolders import Permission, check_name
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import InvalidInput

MAX_PRIORITY = 100
MAX_PARENTS = 32
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_PREFIX = "BACKENDAI_"
_MOUNT_KEYS = ("name", "alias", "permission")
# Which variables of the environment make a layer; the other names with our prefix say
# where a manager is, or are set inside kernels.
ENVIRONMENT = {
    "BACKENDAI_RESOURCES": "resources",
    "BACKENDAI_PRESET": "preset",
    "BACKENDAI_MOUNTS": "mounts",
    "BACKENDAI_RESOURCE_GROUP": "resource_group",
    "BACKENDAI_PRIORITY": "priority",
    "BACKENDAI_CLUSTER_SIZE": "cluster_size",
    "BACKENDAI_CLUSTER_MODE": "cluster_mode",
    "BACKENDAI_FAILURE_POLICY": "failure_policy",
    "BACKENDAI_STARTUP": "startup",
}
_NUMBERS = {"priority", "cluster_size"}


def _read_slots(raw: Any) -> Slots:
    return raw if isinstance(raw, Slots) else Slots.parse(raw)


@dataclass(frozen=True, slots=True)
class MountOption:
    """A folder to show, perhaps under another name, perhaps only to be read."""

    name: str
    alias: str | None = None
    readonly: bool = False


def _read_mount(raw: Any) -> MountOption:
    """Read ``name``, ``name:alias``, ``name:alias:ro``, ``name::ro`` or an object."""
    if isinstance(raw, MountOption):
        return raw
    name, alias, permission = _parts_of_mount(raw)
    if permission not in (None, "", *Permission):  # not a set: it may be anything
        raise InvalidInput("mounts.permission", f"{permission!r} is neither 'ro' nor 'rw'")
    return MountOption(
        check_name(name, field="mounts"),
        None if alias in (None, "") else check_name(alias, field="mounts.alias"),
        permission == Permission.READ_ONLY,
    )


def _parts_of_mount(raw: Any) -> tuple[Any, Any, Any]:
    if isinstance(raw, str):
        name, *rest = raw.split(":")
        alias, permission, *more = [*rest, *[""] * (2 - len(rest))]
        if more:
            raise InvalidInput("mounts", f"{raw!r}: write name:alias or name:alias:ro")
        return name, alias, permission
    if not isinstance(raw, Mapping):
        raise InvalidInput("mounts", f"{raw!r} is not the name of a folder")
    if unknown := [key for key in raw if key not in _MOUNT_KEYS]:
        known = ", ".join(_MOUNT_KEYS)
        raise InvalidInput(f"mounts.{unknown[0]}", f"unknown; known are {known}")
    return raw.get("name"), raw.get("alias"), raw.get("permission")


def _read_priority(raw: Any) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw <= MAX_PRIORITY:
        raise InvalidInput("priority", f"{raw!r} is no whole number from 0 to {MAX_PRIORITY}")
    return raw


def _read_time(raw: Any) -> datetime | None:
    """Read e.g. ``2026-11-28T06:00:00+09:00``."""
    if raw is None or isinstance(raw, datetime):
        return raw
    try:
        at = datetime.fromisoformat(raw)
    except (TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        problem = f"{raw!r} is no time with its zone, such as '2026-11-28T06:00:00+09:00'"
        raise InvalidInput("not_before", problem)
    return at


def _read_shm(raw: Any) -> int | None:
    if raw is None:
        return None
    try:
        size = parse_size(raw)
    except ValueError:
        size = 0
    if size < 1:
        raise InvalidInput("shm", f"{raw!r} is no size of shared memory; write e.g. '256m'")
    return size


def _read_parents(raw: Any) -> list[str] | None:
    if raw is None:
        return None
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise InvalidInput("depends_on", "expected a list of ids or names of sessions")
    for one in raw:
        if not isinstance(one, str) or not one.strip():
            raise InvalidInput("depends_on", f"{one!r} is no id or name of a session")
    if len(raw) > MAX_PARENTS:
        raise InvalidInput("depends_on", f"{len(raw)} sessions are more than {MAX_PARENTS}")
    return list(dict.fromkeys(raw))


def _check_env(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        raise InvalidInput("env", "expected an object of names and values")
    for name, value in raw.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise InvalidInput(f"env.{name}", "not a name of an environment variable")
        if name.startswith(_OWN_PREFIX):
            raise InvalidInput(f"env.{name}", f"names that begin with {_OWN_PREFIX} are reserved")
        if not isinstance(value, str) or "\0" in value:
            raise InvalidInput(f"env.{name}", "the value must be a string without NUL")
    return dict(raw)


class Options(BaseModel):
    """One layer; a field that is None or empty leaves the layer below as it is."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )

    resources: Annotated[Slots, BeforeValidator(_read_slots)] = Slots()
    preset: str | None = None
    shm: Annotated[int | None, BeforeValidator(_read_shm)] = None
    cluster_size: Annotated[int | None, BeforeValidator(read_size)] = None
    cluster_mode: Annotated[ClusterMode | None, BeforeValidator(read_mode)] = None
    failure_policy: Annotated[FailurePolicy | None, BeforeValidator(read_policy)] = None
    startup: Annotated[dict[str, tuple[str, ...]] | None, BeforeValidator(read_startup)] = None
    mounts: list[Annotated[MountOption, BeforeValidator(_read_mount)]] | None = None
    resource_group: str | None = None
    priority: Annotated[int | None, BeforeValidator(_read_priority)] = None
    not_before: Annotated[datetime | None, BeforeValidator(_read_time)] = None
    depends_on: Annotated[list[str] | None, BeforeValidator(_read_parents)] = None
    env: Annotated[dict[str, str], BeforeValidator(_check_env)] = {}

    @classmethod
    def parse(cls, raw: object, *, field: str = "backendai") -> Options:
        """Read the object; raises ``InvalidInput`` naming the field below ``field``."""
        if not isinstance(raw, Mapping):
            raise InvalidInput(field, "expected an object")
        try:
            return cls.model_validate(raw)
        except InvalidInput as error:
            raise InvalidInput(f"{field}.{error.field}", error.problem) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([field, *(str(part) for part in first["loc"])])
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise InvalidInput(where, f"unknown; known are {known}") from None
            raise InvalidInput(where, first["msg"]) from None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Options:
        """Read the ``BACKENDAI_*`` variables; an error names the variable.

        ``BACKENDAI_RESOURCES`` is ``cpu=2,mem=4g`` or a JSON object, ``BACKENDAI_MOUNTS`` is
        ``name,name`` or a JSON list, ``BACKENDAI_STARTUP`` a JSON object, the others are plain
        strings.  Inside a kernel ``BACKENDAI_CLUSTER_SIZE`` says how large its own session is.
        """
        raw: dict[str, Any] = {}
        is_inside = "BACKENDAI_SESSION_ID" in environ
        for variable, name in ENVIRONMENT.items():
            text = environ.get(variable, "").strip()
            if text and not (is_inside and name == "cluster_size"):
                raw[name] = _spelled_out(variable, name, text)
        try:
            return cls.parse(raw)
        except InvalidInput as error:
            name, dot, rest = error.field.removeprefix("backendai.").partition(".")
            variable = f"{_OWN_PREFIX}{name.upper()}"
            raise InvalidInput(f"{variable}{dot}{rest}", error.problem) from None

    def over(self, below: Options) -> Options:
        """Return this layer on top of ``below``."""
        return Options(
            resources=self.resources.over(below.resources),
            preset=self.preset or below.preset,
            shm=self.shm or below.shm,
            cluster_size=self.cluster_size or below.cluster_size,
            cluster_mode=self.cluster_mode or below.cluster_mode,
            failure_policy=self.failure_policy or below.failure_policy,
            startup=below.startup if self.startup is None else self.startup,
            mounts=below.mounts if self.mounts is None else self.mounts,
            resource_group=self.resource_group or below.resource_group,
            priority=below.priority if self.priority is None else self.priority,
            not_before=self.not_before or below.not_before,
            depends_on=below.depends_on if self.depends_on is None else self.depends_on,
            env={**below.env, **self.env},
        )


def merge(layers: Sequence[Options]) -> Options:
    """Return all layers as one, the last on top."""
    return reduce(lambda below, layer: layer.over(below), layers, Options())


def _spelled_out(variable: str, name: str, text: str) -> Any:
    if text[0] in "{[":
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidInput(variable, f"not valid JSON: {error}") from None
    if name in _NUMBERS:
        return int(text) if re.fullmatch(r"\d{1,9}", text) else text
    if name == "mounts":
        return [part.strip() for part in text.split(",")]
    if name == "resources":
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(separator for _, separator, _ in pairs):
            raise InvalidInput(variable, "write e.g. cpu=2,mem=4g")
        return {key.strip(): value.strip() for key, _, value in pairs}
    return text
