"""What agents report, as far as this manager can work with it.

During an upgrade agents of several versions report to managers of several versions.  What one
does not understand it leaves alone: an agent that is refused gets nothing new from it, and what
runs there goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from backendai_jupyter import __version__
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.domain.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    AgentReport,
    Connection,
    KernelReport,
    Record,
)
from backendai_jupyter.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is decided by what an agent reports, in a sentence."""

    agent_id: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reports:
    """The agents that are alive, by id."""

    accepted: Mapping[str, AgentReport] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)


class ReportReader:
    """Reads reports; what is the same text as before costs nothing."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._read: dict[str, _Read] = {}  # by agent id
        self._connections: dict[str, Connection] = {}  # by the sealed text

    def read(self, texts: Mapping[str, str]) -> Reports:
        """Return what the reports say; ``texts`` are as the live store has them, by key."""
        by_agent = {key.removeprefix(keys.REPORTS): text for key, text in texts.items()}
        self._read = {agent_id: self._one(agent_id, text) for agent_id, text in by_agent.items()}
        self._connections = {
            sealed: connection
            for one in self._read.values()
            for sealed, connection in one.connections.items()
        }
        said = {agent_id: one.said for agent_id, one in self._read.items()}
        return Reports(
            {agent_id: one for agent_id, one in said.items() if isinstance(one, AgentReport)},
            {agent_id: one for agent_id, one in said.items() if isinstance(one, Refusal)},
        )

    def connection(self, kernel: KernelReport | None) -> Connection | None:
        """Return how a kernel of an accepted report is reached; None if it cannot be."""
        if kernel is None or kernel.connection is None:
            return None
        return self._connections[kernel.connection]

    def _one(self, agent_id: str, text: str) -> _Read:
        known = self._read.get(agent_id)
        if known is not None and known.text == text:
            return known
        version = "unknown"
        try:
            head = _Head.model_validate_json(text)
            version = head.version
            _check(head)
            report = AgentReport.model_validate_json(text)
            sealed = (kernel.connection for kernel in report.kernels if kernel.connection)
            connections = {one: self._unsealed(one) for one in sealed}
        except (ValidationError, InvalidInput) as error:
            why = (
                f"Agent {agent_id} has version {version}, which this manager of version "
                f"{__version__} does not work with: {_in_words(error)}."
            )
            return _Read(text, Refusal(agent_id, version, why))
        return _Read(text, report, connections)

    def _unsealed(self, sealed: str) -> Connection:
        return self._connections.get(sealed) or self._sealer.unseal(sealed)


@dataclass(frozen=True, slots=True)
class _Read:
    text: str
    said: AgentReport | Refusal
    connections: Mapping[str, Connection] = field(default_factory=dict)


class _Head(Record):
    """What reports of all versions have."""

    version: str
    protocol: int = 1
    oldest_protocol: int = 1


def _check(head: _Head) -> None:
    if head.protocol < OLDEST_PROTOCOL:
        problem = f"it speaks protocol {head.protocol}, older than {OLDEST_PROTOCOL}; upgrade it"
        raise InvalidInput("report", problem)
    if head.oldest_protocol > PROTOCOL:
        problem = f"it speaks protocol {head.protocol}, newer than {PROTOCOL}; upgrade managers"
        raise InvalidInput("report", problem)


def _in_words(error: ValidationError | InvalidInput) -> str:
    if isinstance(error, InvalidInput):
        return error.problem
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"its report cannot be read ({where}: {first['msg']})"
