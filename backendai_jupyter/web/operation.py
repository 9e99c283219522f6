"""What one method of a handler takes and returns, said once for the code and the document."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from backendai_jupyter.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=BaseModel | None)

_JUPYTERS_OWN = frozenset({"token", "_xsrf"})  # parameters that say who asks


class Nothing(BaseModel):
    """No parameter at all, no header of its own, no body."""

    model_config = ConfigDict(extra="forbid")


class Bytes(RootModel[bytes]):
    """What is no JSON: the handler's own code reads or writes it, piece by piece."""

    media_type: ClassVar[str] = "application/octet-stream"
    parts: ClassVar[tuple[type[BaseModel], ...]] = ()  # the models of what is in it


@dataclass(frozen=True, slots=True)
class Operation:
    """``returns`` is None for an answer without a body."""

    summary: str
    returns: type[BaseModel] | None
    query: type[BaseModel]
    headers: type[BaseModel]
    body: type[BaseModel]
    status: int

    def asked_of(self, request: Any) -> dict[str, BaseModel]:
        """Return what a request asks, by argument; raises ``InvalidInput``.

        ``request`` is an ``HTTPServerRequest``.  Its query comes first: what is wrong with
        it is said before anything else.
        """
        asked: dict[str, BaseModel] = {"query": read_query(self.query, request.query_arguments)}
        if self.headers is not Nothing:
            asked["headers"] = read_headers(self.headers, request.headers)
        if self.body is not Nothing and not issubclass(self.body, Bytes):
            asked["body"] = read_body(self.body, request.body)
        if self.query is Nothing:
            del asked["query"]
        return asked


def operation(
    *,
    returns: type[BaseModel] | None,
    query: type[BaseModel] = Nothing,
    headers: type[BaseModel] = Nothing,
    body: type[BaseModel] = Nothing,
    status: int | None = None,
) -> Callable[[Callable[..., Awaitable[R]]], Callable[..., Awaitable[None]]]:
    """Make a handler's method out of one that returns what the answer shall be.

    A ``query``, ``headers`` or a JSON ``body`` is read before the method runs and given to
    it under that name; ``Bytes`` either way are the method's own business.  The first line
    of its docstring is its summary.
    """

    def decorate(method: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[None]]:
        summary = (method.__doc__ or "").strip().partition("\n")[0]
        success = status or (204 if returns is None else 200)
        described = Operation(summary, returns, query, headers, body, success)

        @functools.wraps(method)
        async def answer(handler: Any, **path: str) -> None:
            answered = await method(handler, **path, **described.asked_of(handler.request))
            if returns is None or not issubclass(returns, Bytes):
                handler.respond(success, answered)

        answer.operation = described  # type: ignore[attr-defined]
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
    return _validated(model, {n: v if _is_list(model, n) else v[-1] for n, v in given.items()})


def read_headers(model: type[M], headers: Mapping[str, str]) -> M:
    """Return the headers that ``model`` names, by their aliases; others mean nothing to it."""
    names = [field.alias for field in model.model_fields.values() if field.alias]
    return _validated(model, {name: headers[name] for name in names if name in headers})


def read_body(model: type[M], body: bytes) -> M:
    """Return a JSON body as ``model``, strictly; no body is an empty object.

    Raises ``InvalidInput`` naming the field.
    """
    try:
        return model.model_validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        raise _said(error, model) from None


def _validated(model: type[M], given: Mapping[str, object]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _said(error, model) from None


def _said(error: ValidationError, model: type[BaseModel]) -> InvalidInput:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "body"
    match first["type"]:
        case "extra_forbidden":
            known = ", ".join(model.model_fields) or "none"
            return InvalidInput(field, f"there is no such field; known are {known}")
        case "missing":
            return InvalidInput(field, "it is missing")
        case "json_invalid" | "model_type":
            return InvalidInput(field, f"expected a JSON object: {first['msg']}")
    # The first part of the place is the parameter; the second is where in its list.
    where = field if first["type"] == "json" else str(first["loc"][0])
    return InvalidInput(where, f"{first['input']!r}: {first['msg']}")


def _is_cache_buster(name: str, values: Sequence[bytes]) -> bool:
    """Whether this is the time that JupyterLab appends so that no browser answers itself."""
    return name.isdigit() and not any(values)


def _is_list(model: type[BaseModel], name: str) -> bool:
    return "list" in str(model.model_fields[name].annotation)
