"""The layout of the shared stores: who writes which key, who listens where."""

from __future__ import annotations

CLUSTER_ID = "cluster"  # that of sessions whose assignments are in shared stores

# Cluster store

ASSIGNMENTS = "assignments/"
NETWORKS = "networks/"  # of sessions on several nodes, by the agent that makes them
AGENTS = "agents/"  # one key per agent, written by the agent under a lease
CLAIMS = "claims/"  # one key per session of a batch run, written by it under a lease
LEADER = "leader"  # the manager that decides for all
SETTINGS = "config/"  # one key per scope and shared setting, written by administrators


def assignments(agent_id: str) -> str:
    """The prefix that an agent watches; managers write one key per kernel below it."""
    return f"{ASSIGNMENTS}{agent_id}/"


def assignment(agent_id: str, kernel_id: str) -> str:
    return f"{assignments(agent_id)}{kernel_id}"


def networks(agent_id: str) -> str:
    """The prefix that an agent watches; managers write one key per session below it."""
    return f"{NETWORKS}{agent_id}/"


def network(agent_id: str, session_id: str) -> str:
    return f"{networks(agent_id)}{session_id}"


def registration(agent_id: str) -> str:
    return f"{AGENTS}{agent_id}"


def claim(session_id: str) -> str:
    return f"{CLAIMS}{session_id}"


def setting(scope: str, name: str) -> str:
    """The key of a shared setting; ``scope`` is as ``cluster/shared_config.py`` has it."""
    return f"{SETTINGS}{scope.replace(':', '/', 1)}/{name}"


def scope_and_name(key: str) -> tuple[str, str]:
    """Return what ``setting`` made the key of."""
    scope, _, name = key.removeprefix(SETTINGS).rpartition("/")
    return scope.replace("/", ":", 1), name


# Live store

REPORTS = "reports/"  # one key per agent, written by the agent, expires without heartbeats
REPORT_HINTS = "hints/reports"  # message: agent id whose report changed

ROW_HINTS = "hints/rows"  # message: the manager that has changed rows


def report(agent_id: str) -> str:
    return f"{REPORTS}{agent_id}"


def statistics(agent_id: str) -> str:
    """Where an agent puts what it has measured; expires when it measures no more."""
    return f"statistics/{agent_id}"


def log_requests(agent_id: str) -> str:
    """The channel on which an agent is asked for a kernel's log; message: kernel id."""
    return f"hints/logs/{agent_id}"


def log(kernel_id: str) -> str:
    """Where the agent puts the end of a kernel's log when asked, for a minute."""
    return f"logs/{kernel_id}"


def log_hints(kernel_id: str) -> str:
    """The channel on which the agent says that the log is there."""
    return f"hints/log/{kernel_id}"
