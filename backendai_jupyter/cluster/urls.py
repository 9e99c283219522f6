"""Read ``etcd_url`` and ``redis_url``: where the shared stores are, and how to get in.

::

    etcd://[user[:password]@]host[:2379][,host2[:port]...][/prefix]
    redis://[user[:password]@]host[:6379][/database]
    unix://[user[:password]@]/path/of/redis.sock[?db=0]

``etcds`` and ``rediss`` are the same over TLS.  After ``?`` may follow ``passwordfile=``, a
file that holds the password; for TLS ``cacert=``, the authority that signed the server's
certificate (without it the system's own authorities), ``cert=`` and ``key=``, this client's;
and for Redis ``prefix=``, with which all its keys and channels begin.  Special characters in
names and passwords are percent-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backendai_jupyter.errors import InvalidInput

DEFAULT_PREFIX = "backendai/"
_ETCD_PORT, _REDIS_PORT = 2379, 6379
_TLS_OPTIONS = ("cacert", "cert", "key")
_ETCD_OPTIONS = ("passwordfile", *_TLS_OPTIONS)
_REDIS_OPTIONS = ("passwordfile", "prefix", "db", *_TLS_OPTIONS)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM; ``None`` means the system's authorities, and no certificate of ours."""

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    endpoints: tuple[str, ...]  # host:port
    prefix: str
    user: str | None = None
    password: str = field(default="", repr=False)
    tls: Tls | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"etcd at {', '.join(self.endpoints)}"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    host: str  # empty: at ``socket``
    port: int
    socket: str
    database: int
    prefix: str
    user: str | None = None
    password: str = field(default="", repr=False)
    tls: Tls | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"Redis at {self.socket or _join(self.host, self.port)}"


def read_etcd_url(url: str, *, what: str = "etcd_url") -> EtcdAddress:
    """Raise ``InvalidInput`` for the field ``what``, which never tells the password."""
    parts, options = _split(url, what, "host:2379/prefix", ("etcd", "etcds"), _ETCD_OPTIONS)
    where = parts.netloc.rpartition("@")[2]
    endpoints = tuple(_endpoint(text, what, _ETCD_PORT) for text in where.split(","))
    user, password = _login(parts, options, what)
    if password and not user:
        raise InvalidInput(what, "there is a password but no user")
    if user and not password:
        raise InvalidInput(what, f"there is no password for user {user}; see passwordfile=")
    return EtcdAddress(
        endpoints=tuple(_join(host, port) for host, port in endpoints),
        prefix=_directory(unquote(parts.path.strip("/"))),
        user=user,
        password=password,
        tls=_tls(parts.scheme == "etcds", options, what),
    )


def read_redis_url(url: str, *, what: str = "redis_url") -> RedisAddress:
    """Raise ``InvalidInput`` for the field ``what``, which never tells the password."""
    schemes = ("redis", "rediss", "unix")
    parts, options = _split(url, what, "host:6379/0", schemes, _REDIS_OPTIONS)
    user, password = _login(parts, options, what)
    if user and not password:
        raise InvalidInput(what, f"there is no password for user {user}; see passwordfile=")
    where = parts.netloc.rpartition("@")[2]
    host, port, socket, database = "", 0, "", options.get("db", "0")
    if parts.scheme == "unix":
        socket = unquote(parts.path)
        if where or len(socket) < 2:
            raise InvalidInput(what, "write unix:///path/of/redis.sock, with three slashes")
    else:
        host, port = _endpoint(where, what, _REDIS_PORT)
        database = parts.path.strip("/") or database
    return RedisAddress(
        host=host,
        port=port,
        socket=socket,
        database=_number(database, what, "the database", 0),
        prefix=_directory(options.get("prefix", "").strip("/")),
        user=user,
        password=password,
        tls=_tls(parts.scheme == "rediss", options, what),
    )


def _split(
    url: str, what: str, rest: str, schemes: Sequence[str], known: Sequence[str]
) -> tuple[SplitResult, Mapping[str, str]]:
    example = f"{schemes[0]}://{rest}"
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, True, True)) if parts.query else {}
    except ValueError:  # whose message may hold the password
        raise InvalidInput(what, f"is no URL; write it like {example}") from None
    if parts.scheme not in schemes:
        raise InvalidInput(what, f"begins with none of {', '.join(schemes)}; like {example}")
    if parts.fragment:
        raise InvalidInput(what, "has a '#'; in a password it is written %23")
    for name, value in options.items():
        if name not in known:
            raise InvalidInput(what, f"has no option {name!r}; there are {', '.join(known)}")
        if not value:
            raise InvalidInput(what, f"has an empty {name}")
    return parts, options


def _login(parts: SplitResult, options: Mapping[str, str], what: str) -> tuple[str | None, str]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    user, password = unquote(user), unquote(password)
    if "passwordfile" in options:
        if password:
            raise InvalidInput(what, "has both a password and a passwordfile")
        password = _read_password(Path(options["passwordfile"]), what)
    return user or None, password


def _read_password(path: Path, what: str) -> str:
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(what, f"cannot read passwordfile {path}: {error}") from None
    if not password:
        raise InvalidInput(what, f"passwordfile {path} is empty")
    return password


def _tls(wanted: bool, options: Mapping[str, str], what: str) -> Tls | None:
    files = {name: Path(options[name]) for name in _TLS_OPTIONS if name in options}
    if files and not wanted:
        raise InvalidInput(what, f"{next(iter(files))} is for etcds:// and rediss:// only")
    if ("cert" in files) != ("key" in files):
        raise InvalidInput(what, "cert and key go together")
    for name, path in files.items():
        if not path.is_file():
            raise InvalidInput(what, f"there is no {name} {path}")
    return Tls(**files) if wanted else None


def _endpoint(text: str, what: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise InvalidInput(what, "a host is missing")
    return host, _number(port, what, f"the port of {host}", 1, 65535)


def _number(text: str, what: str, name: str, least: int, most: int | None = None) -> int:
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise InvalidInput(what, f"{name} is no number from {least}" + (f" to {most}" * bool(most)))
    return int(text)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _directory(name: str) -> str:
    return f"{name}/" if name else DEFAULT_PREFIX
