"""``/files/...``: what browsers download and show, streamed from the folder that has it."""

from __future__ import annotations

import mimetypes
import os
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from tornado import web

from backendai_jupyter.web.streaming import FileStream

_NOTEBOOK = "application/x-ipynb+json"


class FilesHandler(JupyterHandler):
    """Shows a file, or with ``?download=1`` hands it over; a part of it where that is asked for."""

    auth_resource = "contents"

    @property
    def content_security_policy(self) -> str:
        """Keep scripts in a file away from the server's origin."""
        policy: str = super().content_security_policy
        return f"{policy}; sandbox allow-scripts"

    @web.authenticated
    @authorized
    async def get(self, path: str) -> None:
        """Answer with a file of the viewer's folders."""
        self.check_xsrf_cookie()  # a page of another site shall not read what is its user's
        contents: Any = self.contents_manager
        fd = await contents.open_file(path)
        try:
            name = path.rstrip("/").rpartition("/")[2]
            stream = FileStream(
                fd,
                os.fstat(fd),
                name,
                as_attachment=bool(self.get_argument("download", "")),
                media_type=_media_type(name),
            )
            await stream.send(self)
        finally:
            os.close(fd)

    head = get


def _media_type(name: str) -> str:
    """Return how a browser shall take a file; what is not known is shown as text, not run."""
    if name.lower().endswith(".ipynb"):
        return _NOTEBOOK
    media_type, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return "application/gzip" if encoding == "gzip" else "application/octet-stream"
    if media_type in {None, "text/plain"}:
        return "text/plain; charset=UTF-8"
    return media_type
