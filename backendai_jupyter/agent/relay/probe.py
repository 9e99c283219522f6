"""Ask a kernel who it is, the way a stock client would: the proof that it can be used."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import zmq
import zmq.asyncio

from backendai_jupyter.agent.relay.messages import DELIMITER, Signer
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import TimedOut


async def kernel_info(connection: Connection, *, timeout_s: float) -> dict[str, Any]:
    """Return the content of the kernel's ``kernel_info_reply`` as soon as it comes.

    The request is sent once: it waits in the relay until the kernel binds its sockets.
    Raises ``TimedOut``.
    """
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    try:
        _connect(socket, connection)
        async with asyncio.timeout(timeout_s):
            return await _ask(socket, Signer(connection.key))
    except TimeoutError as error:
        raise TimedOut(f"The kernel did not answer within {timeout_s:g} seconds.") from error
    finally:
        socket.close(linger=0)
        await asyncio.to_thread(context.term)


def _connect(socket: zmq.asyncio.Socket, connection: Connection) -> None:
    if connection.curve_publickey is not None and connection.curve_secretkey is not None:
        public_key = connection.curve_publickey.encode()
        socket.curve_serverkey = public_key
        socket.curve_publickey = public_key  # one pair for both sides, as in jupyter_client
        socket.curve_secretkey = connection.curve_secretkey.encode()
    separator = ":" if connection.transport == "tcp" else "-"
    socket.connect(f"{connection.transport}://{connection.ip}{separator}{connection.shell_port}")


async def _ask(socket: zmq.asyncio.Socket, signer: Signer) -> dict[str, Any]:
    request = signer.build("kernel_info_request", {}, session=os.urandom(16).hex())
    msg_id = json.loads(request[2])["msg_id"]
    await socket.send_multipart(request)
    while True:
        frames = await socket.recv_multipart()
        start = frames.index(DELIMITER)
        signature, parts = frames[start + 1], frames[start + 2 : start + 6]
        if signer.verifies(signature, parts) and json.loads(parts[1]).get("msg_id") == msg_id:
            content: dict[str, Any] = json.loads(parts[3])
            return content
