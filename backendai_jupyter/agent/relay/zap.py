"""Decides which clients may finish a CurveZMQ handshake with a kernel's channels.

CurveZMQ alone admits everybody who knows the server's public key.  The four channels that
carry messages therefore admit one client key: the pair in the connection file, which stock
jupyter_client uses for both sides.  The heartbeat admits any key, because jupyter_client
makes a throw-away pair for it (``HBChannel._create_socket``); it only echoes, and
``channels.py`` bounds what it takes.

See https://rfc.zeromq.org/spec/27/ for the protocol.
"""

from __future__ import annotations

import hmac

import zmq

ADDRESS = "inproc://zeromq.zap.01"  # fixed by the protocol, one per context
MESSAGE_DOMAIN = b"messages"
HEARTBEAT_DOMAIN = b"heartbeat"

_VERSION = b"1.0"
_FRAMES = 7  # version, request id, domain, address, identity, mechanism, client key


class Doorkeeper:
    """Answers the handshakes of one context; bind it before anything it guards."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], public_key: bytes) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ADDRESS)
        self._public_key = public_key

    def answer(self) -> None:
        """Receive one request, which must be there, and reply to it."""
        frames = self.socket.recv_multipart()
        request_id = frames[1] if len(frames) > 1 else b""
        status, text = (b"200", b"OK") if self._admits(frames) else (b"400", b"No access")
        self.socket.send_multipart([_VERSION, request_id, status, text, b"", b""])

    def _admits(self, frames: list[bytes]) -> bool:
        if len(frames) != _FRAMES or frames[0] != _VERSION or frames[5] != b"CURVE":
            return False
        domain, client_key = frames[2], frames[6]
        if domain == HEARTBEAT_DOMAIN:
            return True
        return domain == MESSAGE_DOMAIN and hmac.compare_digest(client_key, self._public_key)
