"""What one method of a handler takes and returns, said once for the code and the document."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from backendai_jupyter.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=BaseModel | None)

_JUPYTERS_OWN = frozenset({"token", "_xsrf"})  # parameters that say who asks


class Nothing(BaseModel):
    """No parameter at all."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Operation:
    """``returns`` is None for an answer without a body."""

    summary: str
    returns: type[BaseModel] | None
    query: type[BaseModel]


def operation(
    *, returns: type[BaseModel] | None, query: type[BaseModel] = Nothing
) -> Callable[[Callable[..., Awaitable[R]]], Callable[..., Awaitable[None]]]:
    """Make a handler's method out of one that returns what the answer shall be.

    A ``query`` is read before the method runs and given to it as ``query``.  The first line
    of its docstring is its summary.
    """

    def decorate(method: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def answer(handler: Any, **path: str) -> None:
            asked = read_query(query, handler.request.query_arguments)
            given = {} if query is Nothing else {"query": asked}
            handler.respond(await method(handler, **path, **given))

        summary = (method.__doc__ or "").strip().partition("\n")[0]
        answer.operation = Operation(summary, returns, query)  # type: ignore[attr-defined]
        return answer

    return decorate


def read_query(model: type[M], arguments: Mapping[str, Sequence[bytes]]) -> M:
    """Return the query string as ``model``; raises ``InvalidInput`` naming the parameter."""
    given = {
        name: [value.decode("utf-8", "replace") for value in values]
        for name, values in arguments.items()
        if name not in _JUPYTERS_OWN and not _is_cache_buster(name, values)
    }
    for name in given:
        if name not in model.model_fields:
            known = ", ".join(model.model_fields) or "none"
            raise InvalidInput(name, f"there is no such parameter; known are {known}")
    try:
        return model.model_validate(
            {n: v if _is_list(model, n) else v[-1] for n, v in given.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(str(first["loc"][0]), f"{first['input']!r}: {first['msg']}") from None


def _is_cache_buster(name: str, values: Sequence[bytes]) -> bool:
    """Whether this is the time that JupyterLab appends so that no browser answers itself."""
    return name.isdigit() and not any(values)


def _is_list(model: type[BaseModel], name: str) -> bool:
    return "list" in str(model.model_fields[name].annotation)
