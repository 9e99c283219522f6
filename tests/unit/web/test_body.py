"""Reading a JSON body and headers: what is unknown or malformed is refused by name."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.vfolders import Permission
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.web.operation import read_body, read_headers
from backendai_jupyter.web.vfolder_models import (
    NewVFolder,
    Restoration,
    UploadLength,
    VFolderChange,
)


def test_a_body_is_read_with_its_defaults() -> None:
    assert read_body(NewVFolder, b'{"name": "data"}') == NewVFolder(
        name="data", host=None, permission=Permission.READ_WRITE
    )
    assert read_body(VFolderChange, b'{"permission": "ro"}').permission is Permission.READ_ONLY


def test_no_body_is_an_empty_object() -> None:
    assert read_body(Restoration, b"") == Restoration(name=None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"", "name", id="nothing"),
        pytest.param(b"{", "body", id="half an object"),
        pytest.param(b"\xff", "body", id="no text"),
        pytest.param(b'["name"]', "body", id="a list"),
        pytest.param(b'{"host": "local"}', "name", id="a field is missing"),
        pytest.param(b'{"name": "a", "hst": "b"}', "hst", id="unknown field"),
        pytest.param(b'{"name": 3}', "name", id="not a text"),
        pytest.param(b'{"name": null}', "name", id="null"),
        pytest.param(b'{"name": "a", "permission": "rx"}', "permission", id="unknown permission"),
        pytest.param(b'{"name": "a", "host": ["b"]}', "host", id="a list for a text"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_body(NewVFolder, body)
    assert caught.value.field == field


def test_headers_are_read_among_others() -> None:
    read = read_headers(UploadLength, {"Host": "here", "Upload-Length": "12"})
    assert (read.length, read.metadata) == (12, "")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="missing"),
        pytest.param({"Upload-Length": "many"}, id="not a number"),
        pytest.param({"Upload-Length": "-1"}, id="below zero"),
        pytest.param({"Upload-Length": str(2**60)}, id="more than there is anywhere"),
        pytest.param({"Upload-Length": "1.5"}, id="half a byte"),
    ],
)
def test_what_is_wrong_with_a_header_is_named(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_headers(UploadLength, headers)
    assert caught.value.field == "Upload-Length"
