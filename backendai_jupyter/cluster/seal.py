"""Encrypt what is secret on its way through the shared stores (channel keys)."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import InvalidInput


class Sealer:
    """Seals with the cluster secret, which managers and agents read from the same file.

    On one machine the secret is made at start and never leaves the process.
    See https://github.com/fernet/spec.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._fernet = Fernet(secret or Fernet.generate_key())

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
