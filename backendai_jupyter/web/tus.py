"""``/backendai/v1/vfolders/{ref}/uploads``: uploads that may be resumed, by the tus protocol.

Version 1.0.0 with the extensions creation and termination, as on
https://tus.io/protocols/resumable-upload.  A client creates an upload (POST, whose answer
says where it is in ``Location``), asks how much of it is there (HEAD) and sends what
follows (PATCH), as often as it takes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.utils import ensure_async, url_path_join
from tornado import web
from tornado.http1connection import HTTP1Connection

from backendai_jupyter.errors import BackendError
from backendai_jupyter.manager.uploads import Upload, Uploads
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.operation import Nothing, operation, read_headers, read_query
from backendai_jupyter.web.vfolder_models import (
    MAX_UPLOAD_BYTES,
    FilePath,
    UploadContent,
    UploadLength,
    UploadList,
    UploadOffset,
    upload_of,
)

VERSION = "1.0.0"
_OFFER = {
    "Tus-Extension": "creation,termination",
    "Tus-Max-Size": str(MAX_UPLOAD_BYTES),
}


class TusHandler(BackendHandler):
    @property
    def uploads(self) -> Uploads:
        return Uploads(self.manager.vfolders)

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Tus-Resumable", VERSION)
        self.set_header("Tus-Version", VERSION)
        self.set_header("Cache-Control", "no-store")

    @allow_unauthenticated
    def options(self, *args: Any, **kwargs: Any) -> None:
        """Say what this server can do; a browser asks it before it sends a token."""
        super().options(*args, **kwargs)
        for name, value in _OFFER.items():
            self.set_header(name, value)
        self.set_status(HTTPStatus.NO_CONTENT)

    def check_version(self) -> None:
        """Refuse a client of another version with 412, as the protocol wants it."""
        if self.request.headers.get("Tus-Resumable") != VERSION:
            raise web.HTTPError(
                HTTPStatus.PRECONDITION_FAILED, f"expected the header Tus-Resumable: {VERSION}"
            )


class UploadsHandler(TusHandler):
    @web.authenticated
    @authorized
    @operation(returns=UploadList)
    async def get(self, ref: str) -> UploadList:
        """List your uploads into a folder that are not complete; beyond tus."""
        found = await self.ask(self.uploads.list(ref, self.viewer))
        return UploadList([upload_of(upload) for upload in found])

    @web.authenticated
    @authorized
    @operation(returns=None, query=FilePath, headers=UploadLength, status=201)
    async def post(self, ref: str, query: FilePath, headers: UploadLength) -> None:
        """Begin an upload; `Location` says where to send it."""
        self.check_version()
        beginning = self.uploads.begin(
            ref, query.path, self.viewer, length=headers.length, metadata=headers.metadata
        )
        upload = await self.ask(beginning)
        place = f"backendai/v1/vfolders/{upload.folder_id}/uploads/{upload.id}"
        self.set_header("Location", url_path_join(self.base_url, place))


@web.stream_request_body
class UploadHandler(TusHandler):
    """One upload, by the id of its folder and its own."""

    _upload: Upload | None = None
    _failure: BackendError | None = None

    async def prepare(self) -> None:  # type: ignore[override]  # as its own base class has it
        override = self.request.headers.get("X-HTTP-Method-Override", "").upper()
        if self.request.method == "POST" and override in {"PATCH", "DELETE"}:
            self.request.method = override
        await super().prepare()
        if self.request.method == "PATCH" and not self._finished:
            await ensure_async(self._expect(**self.path_kwargs))

    @web.authenticated
    @authorized
    async def _expect(self, ref: str, upload_id: str) -> None:
        """Refuse what cannot be taken before it is sent."""
        read_query(Nothing, self.request.query_arguments)
        self.check_version()
        content_type = self.request.headers.get("Content-Type", "")
        if content_type != UploadContent.media_type:
            raise web.HTTPError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {UploadContent.media_type}"
            )
        headers = read_headers(UploadOffset, self.request.headers)
        upload = await self.ask(self.uploads.get(ref, upload_id, self.viewer))
        upload.check_next(headers.offset, headers.count)
        assert isinstance(self.request.connection, HTTP1Connection)
        self.request.connection.set_max_body_size(upload.length - upload.offset)
        self._upload = upload

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say also that the connection ends, where a body is refused unread: tornado ends it."""
        if self.request.method == "PATCH" and self._upload is None:
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    async def data_received(self, chunk: bytes) -> None:
        """Write one piece; the next one is not read from the connection before."""
        if self._upload is None or self._failure is not None:
            return
        try:
            self._upload = await self._upload.append(chunk)
        except BackendError as error:  # tornado would only log it, and say nothing
            self._failure = error

    @web.authenticated
    @authorized
    @operation(returns=None, status=200)
    async def head(self, ref: str, upload_id: str) -> None:
        """Say in `Upload-Offset` how much of an upload is there."""
        self.check_version()
        upload = await self.ask(self.uploads.get(ref, upload_id, self.viewer))
        self.set_header("Upload-Offset", upload.offset)
        self.set_header("Upload-Length", upload.length)
        if upload.metadata:
            self.set_header("Upload-Metadata", upload.metadata)

    @web.authenticated
    @authorized
    @operation(returns=None, headers=UploadOffset, body=UploadContent)
    async def patch(self, ref: str, upload_id: str, headers: UploadOffset) -> None:
        """Send what follows on the bytes that are there; the last one completes the file."""
        if self._failure is not None:
            raise self._failure
        upload = await self.ask(self.uploads.get(ref, upload_id, self.viewer))
        self.set_header("Upload-Offset", upload.offset)

    @web.authenticated
    @authorized
    @operation(returns=None)
    async def delete(self, ref: str, upload_id: str) -> None:
        """Give an upload up."""
        self.check_version()
        await self.ask(self.uploads.discard(ref, upload_id, self.viewer))


routes = [
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/uploads", UploadsHandler),
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/uploads/(?P<upload_id>[^/]+)", UploadHandler),
]
