"""Which kernel of which compute session stands behind a kernel of Jupyter's."""

from __future__ import annotations

from dataclasses import dataclass

from backendai_jupyter.domain.records import ComputeSession, Kernel


@dataclass(frozen=True, slots=True)
class Place:
    """``subs`` are the ids of the other kernels of the session, if this is its main one."""

    session_id: str
    kernel_id: str
    hostname: str = "main1"
    subs: tuple[str, ...] = ()
    is_sub: bool = False  # then its end is not that of its session

    @classmethod
    def of(cls, session: ComputeSession, kernel: Kernel) -> Place:
        is_sub = kernel.id != session.main.id
        subs = () if is_sub else tuple(k.id for k in session.kernels[1:])
        return cls(session.id, kernel.id, kernel.hostname, subs, is_sub)

    def to_json(self) -> dict[str, str]:
        """Return what Jupyter's REST API says of it."""
        return {"session_id": self.session_id, "hostname": self.hostname}
