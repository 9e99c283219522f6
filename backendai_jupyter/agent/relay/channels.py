"""Five CurveZMQ sockets on TCP for clients, and what ties them to one kernel's ipc sockets.

Each kernel has its own ZeroMQ context, so that a flood of output in one does not hold up
another.  Output goes through a journal (``iopub.py``); each of the other channels has a
C-level proxy in a thread, which takes no Python lock.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping
from typing import Any

import zmq
from zmq.utils import z85

from backendai_jupyter.agent.relay import attendant, iopub, zap
from backendai_jupyter.agent.relay.attendant import Attendant
from backendai_jupyter.agent.relay.iopub import IopubChannel, JournalPlace
from backendai_jupyter.agent.relay.layout import CHANNELS, check_prefix, ipc_address
from backendai_jupyter.agent.relay.messages import Signer
from backendai_jupyter.agent.relay.pace import Traffic
from backendai_jupyter.agent.relay.readers import listen
from backendai_jupyter.errors import RelayFailed

_FRONT_KINDS = {
    "shell": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "stdin": zmq.ROUTER,
    "control": zmq.ROUTER,
    "hb": zmq.ROUTER,
}
# ipykernel asks for input on stdin under the routing id by which it got the request on
# shell: with an id of its own on each channel the question would reach nobody.
_ROUTING_ID = b"backendai-relay"
# Between two attempts to connect; ZeroMQ adds up to as much again at random.  Attempts cost
# time (0.6 % of a core for each kernel that is down), so only what a start waits for hurries.
_RECONNECT_MS = {"shell": 5, "iopub": 5, "stdin": 20, "control": 10, "hb": 20}
# Output that nobody has time for waits in the kernel, which knows how to stop its writer.
_OUTPUT_HWM = 8
_SUBSCRIBER_HWM = 256
_HEARTBEAT_MAX_BYTES = 1024  # anybody may send one, see zap.py
_HEARTBEAT_HWM = 100
_COPIES = {"shell": attendant.COPIES, "stdin": iopub.STDIN, "control": iopub.CONTROL}
_SUBSCRIBE_TO_ALL = b"\x01"
_FRONT_LINGER_MS = 250  # for a last message on its way to a client
_JOIN_S = 5.0

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]


class KernelChannels:
    """The relay of one kernel; open once constructed, all methods from one thread.

    The endpoint stays the same until ``close``, whatever happens to the kernel program.
    With a ``former`` one the ports and keys are those that it names.
    """

    def __init__(
        self,
        kernel_id: str,
        ipc_prefix: str,
        key: str,
        bind: str,
        journal: JournalPlace,
        traffic: Traffic,
        former: Mapping[str, Any] | None = None,
    ) -> None:
        check_prefix(ipc_prefix)
        self.kernel_id = kernel_id
        self.ipc_prefix = ipc_prefix
        self.key = key
        self.bind = bind
        self._journal = journal
        self._traffic = traffic
        self._former = former
        self._public_key, self._secret_key = _keys(former)
        self._context: zmq.Context[Socket] = zmq.Context()
        self._sockets: list[Socket] = []
        self._threads: list[threading.Thread] = []
        signer = Signer(key)
        public_key = z85.decode(self._public_key)
        self._attendant = Attendant(self._context, kernel_id, signer, public_key)
        try:
            self._open(signer)
        except (zmq.ZMQError, OSError) as error:
            self._release()
            raise RelayFailed(f"The relay cannot open channels: {error}.") from error
        except RelayFailed:
            self._release()
            raise
        self._start_proxies()

    def _open(self, signer: Signer) -> None:
        self._backs = {channel: self._back(channel) for channel in CHANNELS}
        self._attendant.start()
        self._fronts = {channel: self._front(channel) for channel in CHANNELS}
        self._steering = {channel: self._steering_pair(channel) for channel in CHANNELS}
        self._copies = {channel: self._connected(where) for channel, where in _COPIES.items()}
        listening = listen(self._journal.socket)
        self._iopub = IopubChannel(
            self.kernel_id,
            self._journal,
            signer,
            listening,
            front=self._fronts["iopub"],
            back=self._backs["iopub"],
            records=self._connected(iopub.RECORDS),
            stdin=self._bound(iopub.STDIN),
            control=self._bound(iopub.CONTROL),
            traffic=self._traffic,
        )

    def endpoint(self) -> dict[str, object]:
        """Return what a client needs beside the kernel's signature key; it has secrets."""
        ports = {
            f"{channel}_port": int(front.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
            for channel, front in self._fronts.items()
        }
        return {
            "ip": self.bind,
            **ports,
            "curve_publickey": self._public_key.decode(),
            "curve_secretkey": self._secret_key.decode(),
            "journal_socket": str(self._journal.socket),
        }

    def move_to(self, ipc_prefix: str) -> None:
        """Follow the kernel to other ipc sockets; what waits for the former ones is lost."""
        check_prefix(ipc_prefix)
        self._stop_proxies()
        for channel, back in self._backs.items():
            back.disconnect(ipc_address(self.ipc_prefix, channel))
            back.connect(ipc_address(ipc_prefix, channel))
        self.ipc_prefix = ipc_prefix
        self._start_proxies()

    def notify(self, text: str, *, dead: bool) -> None:
        self._attendant.notify(text, dead=dead)

    def close(self) -> None:
        """End the threads, free the ports; may take ``_FRONT_LINGER_MS``."""
        self._stop_proxies()
        self._iopub.close()
        self._journal.socket.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        # The doorkeeper goes last: without one ZeroMQ would have to turn everybody away.
        for socket in self._sockets:
            socket.close()
        self._attendant.close()
        self._context.term()

    def _socket(self, kind: int, options: Mapping[int, int | bytes] | None = None) -> Socket:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        for option, value in {
            zmq.LINGER: 0,
            zmq.SNDHWM: 0,  # no request and no reply is dropped
            zmq.RCVHWM: 0,
            **(options or {}),
        }.items():
            socket.setsockopt(option, value)
        return socket

    def _front(self, channel: str) -> Socket:
        kind = _FRONT_KINDS[channel]
        options: dict[int, int | bytes] = {
            zmq.LINGER: _FRONT_LINGER_MS,
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: self._secret_key,
            zmq.ZAP_DOMAIN: zap.MESSAGE_DOMAIN,
            zmq.ZAP_ENFORCE_DOMAIN: 1,  # nobody gets in while there is no doorkeeper
            zmq.HANDSHAKE_IVL: 10_000,
            # A peer that vanished without a word is noticed on both sides within a minute.
            zmq.HEARTBEAT_IVL: 15_000,
            zmq.HEARTBEAT_TIMEOUT: 60_000,
            zmq.HEARTBEAT_TTL: 60_000,
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: 30,
            zmq.TCP_KEEPALIVE_INTVL: 10,
            zmq.TCP_KEEPALIVE_CNT: 3,
        }
        if kind == zmq.ROUTER:
            options[zmq.ROUTER_HANDOVER] = 1  # a client that comes back takes its place again
        else:
            options |= {
                zmq.XPUB_VERBOSE: 1,  # the attendant welcomes each subscriber
                zmq.XPUB_NODROP: 1,  # one that has no room is waited for
                zmq.SNDHWM: _SUBSCRIBER_HWM,
            }
        if channel == "hb":
            options |= {
                zmq.ZAP_DOMAIN: zap.HEARTBEAT_DOMAIN,
                zmq.MAXMSGSIZE: _HEARTBEAT_MAX_BYTES,
                zmq.SNDHWM: _HEARTBEAT_HWM,
                zmq.RCVHWM: _HEARTBEAT_HWM,
            }
        front = self._socket(kind, options)
        if channel == "shell":
            front.bind(attendant.QUESTIONS)
        port = self._former[f"{channel}_port"] if self._former else "*"
        try:
            front.bind(f"tcp://{self.bind}:{port}")
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                raise RelayFailed(
                    f"Port {port} of {self.bind}, where clients reach kernel {self.kernel_id}, "
                    "has meanwhile been taken by another program."
                ) from error
            raise RelayFailed(f"The relay cannot listen on {self.bind}: {error}.") from error
        return front

    def _back(self, channel: str) -> Socket:
        options: dict[int, int | bytes] = {zmq.RECONNECT_IVL: _RECONNECT_MS[channel]}
        if channel == "iopub":
            options[zmq.RCVHWM] = _OUTPUT_HWM
            back = self._socket(zmq.XSUB, options)
            back.connect(attendant.NEWS)
            back.send(_SUBSCRIBE_TO_ALL)  # now: the first message of a kernel is not lost
        else:
            if channel == "hb":
                options |= {zmq.SNDHWM: _HEARTBEAT_HWM, zmq.RCVHWM: _HEARTBEAT_HWM}
            else:
                options[zmq.ROUTING_ID] = _ROUTING_ID
            back = self._socket(zmq.DEALER, options)
        if channel == "shell":
            self._let_replies_in(back)
            back.monitor(attendant.MONITOR, zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
        back.connect(ipc_address(self.ipc_prefix, channel))
        return back

    def _let_replies_in(self, back: Socket) -> None:
        """Connect ``back`` to the attendant so that it receives from it and never sends to it.

        A DEALER shares out what it sends among those of its peers that have room.  This one
        gets room for two messages, which are put there and never read: it stays out of the
        round, also when the limit is lifted for the connections that follow.
        """
        back.setsockopt(zmq.SNDHWM, 1)
        back.connect(attendant.REPLIES)
        for _ in range(16):
            try:
                back.send(b"", zmq.NOBLOCK)
            except zmq.Again:
                back.setsockopt(zmq.SNDHWM, 0)
                return
        raise RelayFailed("The relay cannot keep requests away from its own attendant.")

    def _steering_pair(self, channel: str) -> tuple[Socket, Socket]:
        """Return our end and the proxy's."""
        address = f"inproc://steer-{channel}"
        return self._bound(address), self._connected(address)

    def _start_proxies(self) -> None:
        self._threads = [
            threading.Thread(
                target=self._forward,
                args=(channel,),
                name=f"{channel} {self.kernel_id}",
                daemon=True,
            )
            for channel in CHANNELS
        ]
        for thread in self._threads:
            thread.start()

    def _stop_proxies(self) -> None:
        """Hand all sockets back to the calling thread."""
        for ours, _ in self._steering.values():
            ours.send(b"TERMINATE")
        for thread in self._threads:
            thread.join(_JOIN_S)
            if thread.is_alive():
                raise RelayFailed(f"The thread {thread.name} of the relay does not end.")

    def _forward(self, channel: str) -> None:
        _, steering = self._steering[channel]
        try:
            if channel == "iopub":
                self._iopub.run(steering)
            else:
                front, back = self._fronts[channel], self._backs[channel]
                zmq.proxy_steerable(front, back, self._copies.get(channel), steering)
        except Exception:  # the end of a thread must be seen
            log.exception("channel %s of kernel %s is cut", channel, self.kernel_id)

    def _bound(self, address: str) -> Socket:
        socket = self._socket(zmq.PAIR)
        socket.bind(address)
        return socket

    def _connected(self, address: str) -> Socket:
        socket = self._socket(zmq.PAIR)
        socket.connect(address)
        return socket


def _keys(former: Mapping[str, Any] | None) -> tuple[bytes, bytes]:
    """Return the public and the secret key."""
    if former is None:
        return zmq.curve_keypair()
    return former["curve_publickey"].encode(), former["curve_secretkey"].encode()
