"""Encrypt what is secret on its way through the shared stores (channel keys)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import InvalidInput

MIN_SECRET_BYTES = 32


class Sealer:
    """Seals with the cluster secret, which managers and agents read from the same file.

    On one machine it is made once and stays in the data directory.
    See https://github.com/fernet/spec.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or Fernet.generate_key()
        self._fernet = Fernet(self._secret)

    @classmethod
    def from_file(cls, name: str, *, field: str) -> Sealer:
        """Return a sealer with the secret in a file; raises ``InvalidInput`` about ``field``."""
        path = Path(name)
        try:
            mode, content = stat.S_IMODE(path.stat().st_mode), path.read_bytes().strip()
        except OSError as error:
            raise InvalidInput(field, f"{path}: {error.strerror}") from None
        if mode & 0o077:
            raise InvalidInput(field, f"others may read {path} ({mode:04o}): chmod 600 {path}")
        if len(content) < MIN_SECRET_BYTES:
            problem = f"{path} has {len(content)} bytes and needs {MIN_SECRET_BYTES}"
            raise InvalidInput(field, f"{problem}: openssl rand -base64 48 > {path}")
        return cls(base64.urlsafe_b64encode(hashlib.sha256(content).digest()))

    def secret_of(self, session_id: str) -> str:
        """Return 32 bytes, in hex, by which the members of a session know each other.

        It is the same on every agent, and tells nothing of the cluster secret.
        """
        return hmac.new(self._secret, f"members of {session_id}".encode(), "sha256").hexdigest()

    def seal(self, connection: Connection) -> str:
        return self._fernet.encrypt(connection.model_dump_json().encode()).decode()

    def unseal(self, sealed: str) -> Connection:
        """Raise ``InvalidInput`` if it was sealed with another secret or is damaged."""
        try:
            plain = self._fernet.decrypt(sealed.encode())
        except InvalidToken:
            raise InvalidInput(
                "connection",
                "sealed with another cluster secret; managers and agents must share it",
            ) from None
        return Connection.model_validate_json(plain)
