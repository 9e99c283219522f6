"""What acceptance tests do with folders: make them, and read and write what is in them."""

from __future__ import annotations

import uuid
from typing import Any

from tests.acceptance.channels import Channels, started
from tests.server import RunningServer

# Says what an operating system answers to a program that must not write there.
WRITE = """
import errno
def write(path):
    try:
        open(path, 'w').write('x')
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'written'
"""


async def make_folder(server: RunningServer, **fields: Any) -> str:
    """Make a folder and return its name."""
    body = {"name": f"f-{uuid.uuid4().hex[:8]}", **fields}
    answer = await server.post("backendai/v1/vfolders", json=body)
    assert answer.status_code == 201, answer.text
    return str(body["name"])


async def make_directory(server: RunningServer, path: str) -> None:
    answer = await server.request("PUT", f"api/contents/{path}", json={"type": "directory"})
    assert answer.is_success, answer.text


async def put(server: RunningServer, path: str, text: str) -> None:
    body = {"type": "file", "format": "text", "content": text}
    answer = await server.request("PUT", f"api/contents/{path}", json=body)
    assert answer.is_success, answer.text


async def read(server: RunningServer, path: str) -> str:
    answer = await server.get(f"api/contents/{path}")
    assert answer.is_success, answer.text
    return str(answer.json()["content"])


async def names_in(server: RunningServer, path: str) -> list[str]:
    answer = await server.get(f"api/contents/{path}")
    assert answer.is_success, answer.text
    return sorted(entry["name"] for entry in answer.json()["content"])


async def run(server: RunningServer, code: str, **body: Any) -> str:
    """Run ``code`` in a kernel of its own and return what it printed."""
    kernel_id = await started(server, **body)
    async with Channels.open(server, kernel_id) as channels:
        printed = await channels.run(code)
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
    return printed
