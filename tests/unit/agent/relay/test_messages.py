"""The relay's own messages, read by the reference implementation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jupyter_client.session import Session

from backendai_jupyter.agent.relay.messages import Signer

CONTENT = {"name": "stderr", "text": "außer Speicher\n"}


def read(frames: list[bytes], key: str) -> dict[str, Any]:
    """Return what jupyter_client makes of it; it raises on a wrong signature."""
    session = Session(key=key.encode())
    _, parts = session.feed_identities(frames)
    message: dict[str, Any] = session.deserialize(parts)
    return message


def test_jupyter_client_accepts_what_is_signed_with_the_kernels_key() -> None:
    parent = json.dumps({"msg_id": "cell", "session": "s", "username": "u", "msg_type": "x"})
    frames = Signer("key").build("stream", CONTENT, session="kernel", parent=parent.encode())
    message = read(frames, "key")
    assert message["content"] == CONTENT
    assert message["msg_type"] == "stream"
    assert message["header"]["session"] == "kernel"
    assert message["parent_header"]["msg_id"] == "cell"
    assert message["header"]["date"].tzinfo is not None


def test_jupyter_client_refuses_what_is_signed_with_another_key() -> None:
    frames = Signer("other").build("stream", CONTENT, session="kernel")
    with pytest.raises(ValueError, match="Invalid Signature"):
        read(frames, "key")


def test_a_kernel_without_a_key_gets_unsigned_messages() -> None:
    assert read(Signer("").build("stream", CONTENT, session="s"), "")["content"] == CONTENT


def test_no_two_messages_share_an_id() -> None:
    signer = Signer("key")
    ids = {read(signer.build("stream", CONTENT, session="s"), "key")["msg_id"] for _ in range(100)}
    assert len(ids) == 100


def test_what_jupyter_client_signs_is_verified() -> None:
    session = Session(key=b"key")
    frames = session.serialize(session.msg("kernel_info_request"))
    assert Signer("key").verifies(frames[1], frames[2:])
    assert not Signer("other").verifies(frames[1], frames[2:])
