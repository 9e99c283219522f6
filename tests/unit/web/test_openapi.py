"""The API's document: complete, and made of schemas that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.openapi import document_of, routes
from backendai_jupyter.web.operation import Operation
from backendai_jupyter.web.routes import routes as all_routes

DOCUMENT: dict[str, Any] = document_of(routes).root
OWN = [(pattern, handler) for pattern, handler in all_routes if "/backendai/" in pattern]


def methods() -> Iterator[tuple[str, str, Operation]]:
    for pattern, handler in OWN:
        for name in ("get", "head", "post", "put", "patch", "delete"):
            if name in vars(handler):
                yield pattern, name, vars(handler)[name].operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_method_of_every_route_of_ours_is_described() -> None:
    described = {(path, name) for path, item in DOCUMENT["paths"].items() for name in item}
    assert described == {
        (re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern), name) for pattern, name, _ in methods()
    }
    assert ("/backendai/v1/sessions/{session_id}", "delete") in described


def test_every_description_has_a_summary_and_what_can_go_wrong() -> None:
    for item in DOCUMENT["paths"].values():
        for described in item.values():
            assert described["summary"].endswith(".")
            assert "default" in described["responses"]


@pytest.mark.parametrize(("pattern", "handler"), OWN)
def test_every_handler_is_authorized_as_one_resource(
    pattern: str, handler: type[BackendHandler]
) -> None:
    assert issubclass(handler, BackendHandler)
    assert handler.auth_resource == "backendai"


def test_every_reference_leads_to_a_valid_schema() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_parameters_are_described_as_they_are_read() -> None:
    described = DOCUMENT["paths"]["/backendai/v1/sessions"]["get"]["parameters"]
    assert {parameter["name"] for parameter in described} == {
        *("status", "resource_group", "owner", "name", "since"),
        *("oldest_first", "after", "limit", "statistics"),
    }
    path = DOCUMENT["paths"]["/backendai/v1/sessions/{session_id}/logs"]["get"]["parameters"]
    assert [(p["name"], p["in"], p["required"]) for p in path] == [
        ("session_id", "path", True),
        ("host", "query", False),
    ]


def test_bodies_are_described_as_they_are_taken() -> None:
    folders = DOCUMENT["paths"]["/backendai/v1/vfolders"]["post"]
    assert folders["requestBody"]["required"]
    assert content_of(folders["requestBody"]) == ("application/json", "NewVFolder")
    restore = DOCUMENT["paths"]["/backendai/v1/vfolders/{ref}/restore"]["post"]
    assert not restore["requestBody"]["required"]
    assert "requestBody" not in DOCUMENT["paths"]["/backendai/v1/vfolders/{ref}/purge"]["post"]


def test_a_created_thing_is_answered_with_201() -> None:
    folders = DOCUMENT["paths"]["/backendai/v1/vfolders"]["post"]["responses"]
    assert content_of(folders["201"]) == ("application/json", "VFolder")
    uploads = DOCUMENT["paths"]["/backendai/v1/vfolders/{ref}/uploads"]["post"]["responses"]
    assert uploads["201"] == {"description": "Done"}


def test_files_are_described_as_bytes() -> None:
    files = DOCUMENT["paths"]["/backendai/v1/vfolders/{ref}/files"]["get"]
    assert content_of(files["responses"]["200"]) == ("application/octet-stream", "FileContent")
    assert [(p["name"], p["in"], p["required"]) for p in files["parameters"]] == [
        ("ref", "path", True),
        ("path", "query", True),
    ]
    upload = DOCUMENT["paths"]["/backendai/v1/vfolders/{ref}/uploads/{upload_id}"]["patch"]
    assert content_of(upload["requestBody"]) == (
        "application/offset+octet-stream",
        "UploadContent",
    )
    headers = {p["name"]: p["required"] for p in upload["parameters"] if p["in"] == "header"}
    assert headers == {"Upload-Offset": True, "Content-Length": False}


def content_of(described: dict[str, Any]) -> tuple[str, str]:
    """Return the one media type of a body, and the name of its schema."""
    [(media_type, content)] = described["content"].items()
    return media_type, content["schema"]["$ref"].rpartition("/")[2]


def test_the_event_stream_is_described_with_what_its_events_say() -> None:
    stream = DOCUMENT["paths"]["/backendai/v1/events"]["get"]
    assert list(stream["responses"]["200"]["content"]) == ["text/event-stream"]
    assert [p["name"] for p in stream["parameters"]] == ["Last-Event-ID"]
    assert {"SessionEvent", "SnapshotEvent"} <= set(DOCUMENT["components"]["schemas"])
