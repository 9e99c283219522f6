"""Which swarm a Docker Engine is in; all calls block."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from backendai_jupyter.domain.wire import Swarm

log = logging.getLogger(__name__)

_CERTIFICATE = "swarm/certificates/swarm-node.crt"  # below the engine's own directory


def read_swarm(info: Mapping[str, Any], *, outside: str) -> Swarm | None:
    """Return the swarm of the engine that has said ``info``; None if that cannot be known.

    Only an engine that manages the swarm says which one it is; the certificate of each says it
    too.  Engines whose kernels differ in how they reach the outside count as of different swarms.
    """
    swarm = info["Swarm"]
    if swarm["LocalNodeState"] != "active":
        return None
    known = (swarm.get("Cluster") or {}).get("ID") or _from_certificate(Path(info["DockerRootDir"]))
    if not known:
        return None
    return Swarm(id=f"{known} {outside}", manages=bool(swarm["ControlAvailable"]))


def _from_certificate(root: Path) -> str:
    try:
        found = x509.load_pem_x509_certificates((root / _CERTIFICATE).read_bytes())
    except (OSError, ValueError) as error:
        log.debug("which swarm it is could not be read: %s", error)
        return ""
    names = found[0].subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else ""
