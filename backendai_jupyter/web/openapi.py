"""``/backendai/v1/openapi.json``: the API's document, made from the routes themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jupyter_server.auth.decorator import authorized
from pydantic import BaseModel, RootModel
from pydantic.json_schema import models_json_schema
from tornado import web

from backendai_jupyter import __version__
from backendai_jupyter.web import cluster, events, sessions, tus, vfolder_files, vfolders
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.models import Problem
from backendai_jupyter.web.operation import Bytes, Nothing, Operation, operation

Route = tuple[str, type[BackendHandler]]

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_GROUP = re.compile(r"\(\?P<(\w+)>[^)]*\)")
_REF = "#/components/schemas/{model}"


class Document(RootModel[dict[str, Any]]):
    """An OpenAPI 3.1 document."""


def document_of(routes: Sequence[Route]) -> Document:
    """Return the document of these routes; every method of theirs must be an operation."""
    found = list(_operations(routes))
    models: list[type[BaseModel]] = [Problem]
    models += [op.returns for _, _, op in found if op.returns is not None]
    models += [part for model in models if issubclass(model, Bytes) for part in model.parts]
    models += [op.query for _, _, op in found if op.query is not Nothing]
    bodies = [op.body for _, _, op in found if op.body is not Nothing]
    _, definitions = models_json_schema(
        [
            *((model, "serialization") for model in dict.fromkeys(models)),
            *((model, "validation") for model in dict.fromkeys(bodies)),
        ],
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for path, method, op in found:
        paths.setdefault(path, {})[method] = _described(path, op)
    return Document(
        {
            "openapi": "3.1.0",
            "info": {"title": "Backend.AI for Jupyter", "version": __version__},
            "security": [{"token": []}],
            "paths": paths,
            "components": {
                "schemas": definitions["$defs"],
                "securitySchemes": {
                    "token": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "Authorization",
                        "description": "`token` and the Jupyter Server's token",
                    }
                },
            },
        }
    )


class DocumentHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=Document)
    async def get(self) -> Document:
        """Return this document."""
        return document_of(routes)


routes: list[Route] = [
    *sessions.routes,
    *events.routes,
    *cluster.routes,
    *vfolders.routes,
    *vfolder_files.routes,
    *tus.routes,
    (r"/backendai/v1/openapi.json", DocumentHandler),
]


def _operations(routes: Sequence[Route]) -> Iterator[tuple[str, str, Operation]]:
    for pattern, handler in routes:
        for method in _METHODS:
            # A method that is not the handler's own is tornado's, which refuses.
            if method in vars(handler):
                yield _GROUP.sub(r"{\1}", pattern), method, vars(handler)[method].operation


def _described(path: str, op: Operation) -> dict[str, Any]:
    described = {
        "summary": op.summary,
        "parameters": [
            *_in_path(path),
            *_parameters("query", op.query),
            *_parameters("header", op.headers),
        ],
        "responses": {
            **_success(op),
            "default": {"description": "Why not", "content": _content(Problem)},
        },
    }
    if op.body is not Nothing:
        described["requestBody"] = {"required": _is_required(op.body), "content": _content(op.body)}
    return described


def _success(op: Operation) -> dict[str, Any]:
    if op.returns is None:
        return {str(op.status): {"description": "Done"}}
    described = (op.returns.__doc__ or "").strip()
    return {str(op.status): {"description": described, "content": _content(op.returns)}}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    media_type = model.media_type if issubclass(model, Bytes) else "application/json"
    return {media_type: {"schema": {"$ref": _REF.format(model=model.__name__)}}}


def _is_required(body: type[BaseModel]) -> bool:
    """Whether there is no request without this body: an empty one would lack a field."""
    return any(field.is_required() for field in body.model_fields.values())


def _in_path(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameters(place: str, model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    required = schema.get("required", ())
    for name, its_schema in schema.get("properties", {}).items():
        yield {"name": name, "in": place, "required": name in required, "schema": its_schema}
