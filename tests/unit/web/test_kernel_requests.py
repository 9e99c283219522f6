"""Requests that are lost with a relay are known, and sent again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session
from zmq.eventloop.zmqstream import ZMQStream

from backendai_jupyter.web.kernel_requests import ShellChannel


@pytest.fixture
def kernel() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.bind("inproc://shell")
        socket.rcvtimeo = 5000
        yield socket


@pytest.fixture
async def shell(kernel: zmq.Socket[bytes]) -> Any:
    socket = kernel.context.socket(zmq.PAIR)
    socket.connect("inproc://shell")
    stream = ZMQStream(socket)
    yield ShellChannel(stream)
    stream.close()


@pytest.fixture
def session() -> Session:
    return Session(key=b"secret")


def send(shell: ShellChannel, session: Session, msg_type: str) -> bytes:
    """Send a message as jupyter_server does, and return its header."""
    message = session.msg(msg_type, {})
    session.send(shell, message)  # type: ignore[arg-type] # it acts as a stream
    return json.dumps({"msg_id": message["header"]["msg_id"]}).encode()


async def test_what_was_not_seen_is_sent_again_as_it_was(
    shell: ShellChannel, session: Session, kernel: zmq.Socket[bytes]
) -> None:
    seen = send(shell, session, "execute_request")
    send(shell, session, "execute_request")
    send(shell, session, "kernel_info_request")
    shell.flush()
    first = [kernel.recv_multipart() for _ in range(3)]
    shell.saw(seen)
    assert shell.send_again() == 1
    shell.flush()
    assert kernel.recv_multipart() == first[1]
    assert not kernel.poll(0)


async def test_a_kernel_refuses_what_it_has_had(
    shell: ShellChannel, session: Session, kernel: zmq.Socket[bytes]
) -> None:
    send(shell, session, "execute_request")
    shell.send_again()
    shell.flush()
    of_kernel = Session(key=b"secret")
    for is_known in (False, True):
        _, frames = of_kernel.feed_identities(kernel.recv_multipart())
        if is_known:
            with pytest.raises(ValueError, match="Duplicate Signature"):
                of_kernel.deserialize(frames)
        else:
            of_kernel.deserialize(frames)


async def test_what_the_former_program_was_asked_is_not_sent_to_the_next(
    shell: ShellChannel, session: Session
) -> None:
    send(shell, session, "execute_request")
    shell.forget()
    assert shell.send_again() == 0


async def test_no_more_than_some_are_kept(
    shell: ShellChannel, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backendai_jupyter.web.kernel_requests._MOST", 2)
    for _ in range(3):
        send(shell, session, "execute_request")
    assert shell.send_again() == 2
