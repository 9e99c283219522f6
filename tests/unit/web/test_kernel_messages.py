"""Records of a journal as the messages that a stock Jupyter Server would have sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
)

from backendai_jupyter.agent.relay.records import Kind, Record, decode, encode
from backendai_jupyter.web.kernel_messages import V1, Translator

KERNEL = Session(key=b"key", session="kernel")
CLIENT = Session(key=b"key", session="client")
ERROR = {"ename": "ValueError", "evalue": "secret", "traceback": ["secret"], "status": "error"}


def record(
    kind: Kind, msg_type: str, content: dict[str, Any], *, to: bytes = b"", buffers: Any = ()
) -> Record:
    message = KERNEL.msg(msg_type, content, parent=CLIENT.msg("execute_request"))
    _, signature, *frames = KERNEL.serialize(message)
    route = [] if kind is Kind.IOPUB else [to]
    data = b"".join(encode(7, kind, [*route, signature, *frames, *buffers]))
    return next(decode(memoryview(data)))


def translator(subprotocol: str | None, **options: Any) -> Translator:
    session = Session(key=b"key", session="client")
    return Translator(session, subprotocol, **{"instead_of_traceback": None, **options})


def in_v1(message: bytes | str | None) -> tuple[str, list[Any]]:
    assert isinstance(message, bytes)
    channel, frames = deserialize_msg_from_ws_v1(message)
    return channel, [*(json.loads(frame) for frame in frames[:4]), *frames[4:]]


def in_legacy(message: bytes | str | None) -> dict[str, Any]:
    assert message is not None
    if isinstance(message, str):
        return dict(json.loads(message))
    return dict(deserialize_binary_message(message))


def test_v1_has_the_frames_as_they_are() -> None:
    output = record(Kind.IOPUB, "stream", {"text": "é"}, buffers=[b"one", b""])
    channel, frames = in_v1(translator(V1).message(output))
    assert channel == "iopub"
    assert (frames[0]["msg_type"], frames[3], frames[4:]) == (
        "stream",
        {"text": "é"},
        [b"one", b""],
    )


def test_legacy_is_json_with_a_channel() -> None:
    message = translator(None).message(record(Kind.IOPUB, "stream", {"text": "é"}))
    assert isinstance(message, str)
    legacy = in_legacy(message)
    assert (legacy["channel"], legacy["msg_type"], legacy["content"]) == (
        "iopub",
        "stream",
        {"text": "é"},
    )


def test_legacy_is_binary_where_there_are_buffers() -> None:
    output = record(Kind.IOPUB, "comm_msg", {"data": {}}, buffers=[b"one", b"two"])
    legacy = in_legacy(translator(None).message(output))
    assert (legacy["channel"], legacy["content"]) == ("iopub", {"data": {}})
    assert legacy["buffers"] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("kind", "channel"),
    [(Kind.SHELL, "shell"), (Kind.STDIN, "stdin"), (Kind.CONTROL, "control")],
)
@pytest.mark.parametrize("subprotocol", [V1, None])
def test_an_answer_goes_to_who_asked_and_to_nobody_else(
    kind: Kind, channel: str, subprotocol: str | None
) -> None:
    mine = translator(subprotocol).message(record(kind, "x_reply", {"n": 1}, to=b"client"))
    assert channel == (in_v1(mine)[0] if subprotocol else in_legacy(mine)["channel"])
    assert translator(subprotocol).message(record(kind, "x_reply", {}, to=b"another")) is None


def test_a_request_is_no_message_for_a_client() -> None:
    (request,) = decode(memoryview(b"".join(encode(1, Kind.REQUEST, [b"client", b"{}"]))))
    assert translator(V1).message(request) is None


@pytest.mark.parametrize("subprotocol", [V1, None])
@pytest.mark.parametrize(
    ("kind", "msg_type"), [(Kind.IOPUB, "error"), (Kind.SHELL, "execute_reply")]
)
def test_tracebacks_are_hidden_where_the_administrator_wants_it(
    subprotocol: str | None, kind: Kind, msg_type: str
) -> None:
    hiding = translator(subprotocol, instead_of_traceback="Ask the operator.")
    message = hiding.message(record(kind, msg_type, ERROR, to=b"client"))
    content = in_v1(message)[1][3] if subprotocol else in_legacy(message)["content"]
    assert content == {
        "ename": "ExecutionError",
        "evalue": "Execution error",
        "traceback": ["Ask the operator."],
        "status": "error",
    }


def test_a_reply_without_a_traceback_stays_as_it_is() -> None:
    hiding = translator(V1, instead_of_traceback="Ask the operator.")
    message = hiding.message(record(Kind.SHELL, "execute_reply", {"status": "ok"}, to=b"client"))
    assert in_v1(message)[1][3] == {"status": "ok"}


def test_a_forged_message_is_refused() -> None:
    forged = record(Kind.IOPUB, "stream", {"text": "x"})
    stranger = Translator(Session(key=b"another"), None, instead_of_traceback=None)
    with pytest.raises(ValueError, match="signature"):
        stranger.message(forged)
