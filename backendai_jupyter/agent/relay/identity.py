"""The certificate by which readers on other machines know a relay.

It is self-signed and pinned: its text travels, sealed, in the report of each kernel, and a reader
trusts no other.  So neither the names nor the dates in it mean anything.  The agent makes it,
because the relay starts too fast to load ``cryptography``.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from backendai_jupyter.agent.relay.gateway import certificate_in


def ensure_identity(path: Path) -> None:
    """Make a private key and its certificate in ``path`` unless they are there.

    One caller at a time; raises ``OSError``.
    """
    if certificate_in(path):
        return
    key_pem, certificate_pem = _make()
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(certificate_pem + key_pem)
    partial.rename(path)


def _make() -> tuple[str, str]:
    """Return a private key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "backendai-relay")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private.decode(), certificate.public_bytes(Encoding.PEM).decode()
