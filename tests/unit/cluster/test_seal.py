"""What is derived from the cluster secret: the same everywhere, and for one session only."""

from __future__ import annotations

from cryptography.fernet import Fernet

from backendai_jupyter.cluster.seal import Sealer


def test_all_agents_know_the_same_secret_of_a_session_and_another_of_each() -> None:
    secret = Fernet.generate_key()
    one, other = Sealer(secret), Sealer(secret)
    assert one.secret_of("s1") == other.secret_of("s1")
    assert len(bytes.fromhex(one.secret_of("s1"))) == 32
    assert one.secret_of("s1") != one.secret_of("s2")
    assert one.secret_of("s1") != Sealer().secret_of("s1")
