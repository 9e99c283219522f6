"""Which member of which session this process belongs to, and how members know each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

PORT = 7411  # of each member, on the network that belongs to the session alone
KEY_FILE = "members.key"  # the session's secret, in hex
HEARTBEAT_MILLIS = 1000
SILENCE_MILLIS = 5000  # after which a connection whose other end is mute counts as lost


class NoSuchMember(ValueError):
    """A name that no member of this session has."""


@dataclass(frozen=True)
class Keys:
    """The one CURVE key pair of all members of a session: who has it is one."""

    public: bytes
    secret: bytes

    def guard(self, socket: zmq.Socket[bytes], *, accepts: bool) -> None:
        """Have ``socket`` talk to members only; an accepting one needs a ``Doorkeeper``, too."""
        socket.linger = 0
        socket.ipv6 = True
        socket.sndhwm = socket.rcvhwm = 0  # what may be under way is counted by the listener
        socket.heartbeat_ivl = HEARTBEAT_MILLIS
        socket.heartbeat_timeout = SILENCE_MILLIS
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        if accepts:
            socket.curve_server = True
        else:
            socket.curve_serverkey = self.public


@dataclass(frozen=True)
class Place:
    """One member: its name, those of all, main1 first, and the directory of its own files."""

    host: str
    hosts: tuple[str, ...]
    run_dir: Path

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Place:
        host = environment.get("BACKENDAI_CLUSTER_HOST", "main1")
        hosts = environment.get("BACKENDAI_CLUSTER_HOSTS", host).split(",")
        return cls(host, tuple(hosts), Path(__file__).resolve().parents[2])

    def keys(self) -> Keys:
        """Raise ``OSError`` where there is no secret: the session has one kernel."""
        secret = z85.encode(bytes.fromhex((self.run_dir / KEY_FILE).read_text()))
        return Keys(zmq.curve_public(secret), secret)

    def select(self, wanted: str) -> tuple[str, ...]:
        """Return the hosts that ``all``, ``subs`` or ``HOST[,HOST]`` means, in their order."""
        if wanted == "all":
            return self.hosts
        if wanted == "subs":
            if len(self.hosts) == 1:
                raise NoSuchMember(f"this session has one kernel, {self.host}, and no subs")
            return self.hosts[1:]
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        if unknown := [name for name in names if name not in self.hosts]:
            known = ", ".join(self.hosts)
            raise NoSuchMember(f"no member is called {', '.join(unknown)}; there are: {known}")
        if not names:
            raise NoSuchMember("say on which members: all, subs, or their names")
        return tuple(host for host in self.hosts if host in names)


class Doorkeeper:
    """Lets members alone finish a handshake: CURVE itself admits all who know the public key.

    See https://rfc.zeromq.org/spec/27/ for the protocol.
    """

    def __init__(self, context: zmq.Context[Any], keys: Keys) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")  # fixed by the protocol, one per context
        self._public = z85.decode(keys.public)

    def answer(self) -> None:
        frames = self.socket.recv_multipart()
        admitted = len(frames) == 7 and frames[5:] == [b"CURVE", self._public]
        status = [b"200", b"OK"] if admitted else [b"400", b"No member"]
        self.socket.send_multipart([b"1.0", frames[1], *status, b"", b""])
