"""Sessions of several kernels for tests: who is in one, and programs that speak with each other."""

from __future__ import annotations

from collections.abc import Iterable

from backendai_jupyter.domain.wire import ClusterMode, Membership

ALL_REACHED = "reached all"

PORT = 9000
_LISTENS = """
import socket, threading
own = {own}
server = socket.create_server((own, {port}))
def serve():
    while True:
        connection, _ = server.accept()
        connection.sendall(socket.gethostname().encode())
        connection.close()
"""
_ASKS = """
import socket, time
own = socket.gethostname()
for host in {hosts!r}:
    while True:
        try:
            with socket.create_connection((host, {port}), timeout=5) as connection:
                said = connection.recv(100).decode()
            break
        except OSError as error:
            print(own, 'to', host, error, flush=True)
            time.sleep(0.1)
    assert said == host, (said, host)
    print(own, 'has reached', host, 'at', socket.gethostbyname(host), flush=True)
print({done!r}, flush=True)
"""


def hosts_of(size: int) -> tuple[str, ...]:
    return ("main1", *(f"sub{number}" for number in range(1, size)))


def members(size: int, mode: ClusterMode = ClusterMode.SINGLE_NODE) -> dict[str, Membership]:
    """Return the places of all kernels of a session, by host name."""
    hosts = hosts_of(size)
    return {
        host: Membership(
            mode=mode,
            role="main" if rank == 0 else "sub",
            idx=max(rank, 1),
            local_rank=rank,
            hosts=hosts,
        )
        for rank, host in enumerate(hosts)
    }


def listens(host: str) -> str:
    """Return a program that tells its own host name to whoever asks at ``host``."""
    return _LISTENS.format(own=repr(host), port=PORT) + "serve()\n"


def asks(hosts: Iterable[str]) -> str:
    """Return a program that says ``ALL_REACHED`` once each of these has told its name."""
    return _ASKS.format(hosts=tuple(hosts), port=PORT, done=ALL_REACHED)


def reaches(hosts: Iterable[str]) -> str:
    """Return a program that does both, and goes on telling after it has asked."""
    listening = _LISTENS.format(own="socket.gethostname()", port=PORT)
    in_thread = "threading.Thread(target=serve, daemon=True).start()\n"
    return f"{listening}{in_thread}{asks(hosts)}"


def reaches_all(hosts: Iterable[str]) -> str:
    """Return the same program, which does not end."""
    return f"{reaches(hosts)}while True: time.sleep(60)\n"
