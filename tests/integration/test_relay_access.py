"""Who gets in: those who hold the kernel's secret key, and nobody else."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from backendai_jupyter.agent.relay.layout import CHANNELS
from backendai_jupyter.agent.relay.messages import Signer
from backendai_jupyter.agent.relay.probe import kernel_info
from tests.integration.relay_rig import KEY, TIMEOUT_S, Rig, rig, run, stock_client

TIMEOUT_MS = int(TIMEOUT_S * 1000)
MESSAGE_CHANNELS = [channel for channel in CHANNELS if channel != "hb"]
CLIENT_KINDS = {"iopub": zmq.SUB, "hb": zmq.REQ}
OUTCOMES = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "admitted",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "not understood",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "cut off",
    zmq.EVENT_DISCONNECTED: "cut off",
}


class Caller:
    """A raw client of one channel that knows the address, and keys as each test says."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kernel: Rig, channel: str) -> None:
        self.socket = context.socket(CLIENT_KINDS.get(channel, zmq.DEALER))
        self.socket.linger = 0
        self._port = getattr(kernel.endpoint, f"{channel}_port")
        self._events = self.socket.get_monitor_socket(sum(set(OUTCOMES)))

    def know(self, server_key: str, public_key: bytes, secret_key: bytes) -> None:
        self.socket.curve_serverkey = server_key.encode()
        self.socket.curve_publickey = public_key
        self.socket.curve_secretkey = secret_key

    def dial(self) -> None:
        self.socket.connect(f"tcp://127.0.0.1:{self._port}")

    def outcome(self) -> str:
        """Return how the handshake ended, or the connection after it."""
        assert self._events.poll(TIMEOUT_MS), "the relay does not react"
        event, _ = struct.unpack("=hi", self._events.recv_multipart()[0])
        return OUTCOMES[event]

    def close(self) -> None:
        self.socket.disable_monitor()
        self._events.close()
        self.socket.close()


@contextmanager
def caller(kernel: Rig, channel: str) -> Iterator[Caller]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = Caller(context, kernel, channel)
    try:
        yield made
    finally:
        made.close()
        context.term()


def know_as_owner(caller: Caller, kernel: Rig) -> None:
    pair = kernel.endpoint.curve_publickey, kernel.endpoint.curve_secretkey
    caller.know(pair[0], pair[0].encode(), pair[1].encode())


def know_as_stranger(caller: Caller, kernel: Rig) -> None:
    caller.know(kernel.endpoint.curve_publickey, *zmq.curve_keypair())


@pytest.mark.parametrize("channel", CHANNELS)
async def test_the_holder_of_the_secret_key_gets_in(channel: str, short_tmp_path: Path) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        with caller(kernel, channel) as owner:
            know_as_owner(owner, kernel)
            owner.dial()
            assert owner.outcome() == "admitted"


@pytest.mark.parametrize("channel", MESSAGE_CHANNELS)
async def test_a_stranger_who_knows_address_and_public_key_is_refused(
    channel: str, short_tmp_path: Path
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        with caller(kernel, channel) as stranger:
            know_as_stranger(stranger, kernel)
            stranger.dial()
            assert stranger.outcome() == "refused"


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_client_without_encryption_is_not_understood(
    channel: str, short_tmp_path: Path
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        with caller(kernel, channel) as plain:
            plain.dial()
            assert plain.outcome() in {"not understood", "cut off"}


async def test_a_stranger_hears_nothing_of_a_running_kernel_and_makes_it_do_nothing(
    short_tmp_path: Path,
) -> None:
    """Even one who knows the signature key, too: the request must not arrive."""
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        with caller(kernel, "shell") as shell, caller(kernel, "iopub") as iopub:
            for stranger in (shell, iopub):
                know_as_stranger(stranger, kernel)
                stranger.dial()
            iopub.socket.subscribe(b"")
            content = {"code": "intruded = True", "silent": False}
            shell.socket.send_multipart(
                Signer(KEY).build("execute_request", content, session="stranger")
            )
            assert (shell.outcome(), iopub.outcome()) == ("refused", "refused")
            assert await client.do(run, "print('intruded' in globals())") == "False\n"
            assert not shell.socket.poll(0)
            assert not iopub.socket.poll(0)


async def test_the_heartbeat_echoes_for_whoever_knows_the_public_key(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        with caller(kernel, "hb") as stranger:
            know_as_stranger(stranger, kernel)
            stranger.dial()
            assert stranger.outcome() == "admitted"
            stranger.socket.send(b"ping")
            assert stranger.socket.poll(TIMEOUT_MS)
            assert stranger.socket.recv() == b"ping"


async def test_the_heartbeat_takes_no_load_from_strangers(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        with caller(kernel, "hb") as stranger:
            know_as_stranger(stranger, kernel)
            stranger.dial()
            stranger.socket.send(b"x" * 2000)
            assert [stranger.outcome(), stranger.outcome()] == ["admitted", "cut off"]


async def test_garbage_on_the_ports_disturbs_nobody(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        noises = [
            socket.create_connection(("127.0.0.1", getattr(kernel.endpoint, f"{channel}_port")))
            for channel in CHANNELS
            for _ in range(10)
        ]
        for noise in noises:
            noise.sendall(os.urandom(10_000))
        assert await client.do(run, "print('undisturbed')") == "undisturbed\n"
        assert await kernel_info(kernel.connection, timeout_s=TIMEOUT_S)
        for noise in noises:
            noise.close()


async def test_no_secret_is_shown_in_the_relays_log_or_command_line(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        await kernel.relay.notify(kernel.kernel_id, "text")
        shown = (short_tmp_path / "control.log").read_text() + repr(kernel.endpoint)
        shown += command_line(kernel.relay.pid)
    assert "control" in shown
    assert KEY not in shown
    assert kernel.endpoint.curve_secretkey not in shown


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
