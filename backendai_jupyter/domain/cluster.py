"""What may be asked of a session of several kernels: how many, where, and who outlives whom."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import InvalidInput

MAIN, SUB = "main", "sub"
ROLES = (MAIN, SUB)


class FailurePolicy(StrEnum):
    """What the end of one kernel of a session means for the others."""

    END = "end"  # they end with it
    DEGRADED = "degraded"  # they go on, as long as main1 does


def read_size(raw: Any) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise InvalidInput("cluster_size", f"{raw!r} is no number of kernels")
    return raw


def read_mode(raw: Any) -> ClusterMode | None:
    return None if raw is None else ClusterMode(_one_of(ClusterMode, raw, "cluster_mode"))


def read_policy(raw: Any) -> FailurePolicy | None:
    return None if raw is None else FailurePolicy(_one_of(FailurePolicy, raw, "failure_policy"))


def read_startup(raw: Any) -> dict[str, tuple[str, ...]] | None:
    """Read e.g. ``{"sub": ["dask", "worker", "tcp://main1:8786"]}``; a string is split."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        problem = 'expected an object of roles and commands, such as {"sub": ["sleep", "60"]}'
        raise InvalidInput("startup", problem)
    for role in raw:
        if role not in ROLES:
            raise InvalidInput(f"startup.{role}", f"no such role; known are {', '.join(ROLES)}")
    return {role: _command(raw[role], f"startup.{role}") for role in ROLES if role in raw}


def _one_of(kind: type[StrEnum], raw: Any, field: str) -> str:
    if not isinstance(raw, str) or raw not in list(kind):
        raise InvalidInput(field, f"{raw!r} is none of {', '.join(kind)}")
    return raw


def _command(raw: Any, field: str) -> tuple[str, ...]:
    if isinstance(raw, str):
        try:
            raw = shlex.split(raw)
        except ValueError as error:
            raise InvalidInput(field, f"{error} in {raw!r}") from None
    if not isinstance(raw, list | tuple) or not raw:
        raise InvalidInput(field, "expected a list of words, or a string of them")
    if not all(isinstance(word, str) and "\0" not in word for word in raw):
        raise InvalidInput(field, "each word must be a string without NUL")
    return tuple(raw)
