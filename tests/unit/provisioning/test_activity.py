"""What a kernel's messages make of its state, as a stock Jupyter Server has it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from backendai_jupyter.provisioning.activity import record
from backendai_jupyter.provisioning.journal import News

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
EXECUTE, INFO = "execute_request", "kernel_info_request"


def after(state: str, *news: News) -> tuple[str, bool]:
    """Return the state that a kernel is in then, and whether it was active."""
    kernels = AsyncMappingKernelManager()
    kernel = SimpleNamespace(execution_state=state, last_activity=LONG_AGO)
    for one in news:
        record(kernels, kernel, one)
    return kernel.execution_state, kernel.last_activity != LONG_AGO


@pytest.mark.parametrize(
    ("before", "news", "state", "is_active"),
    [
        ("idle", News("busy", "status", EXECUTE), "busy", True),
        ("busy", News("idle", "status", EXECUTE), "idle", True),
        ("idle", News("busy", "status", INFO), "idle", False),
        ("busy", News("idle", "status", INFO), "busy", True),
        ("starting", News("busy", "status", INFO), "idle", False),
        ("starting", News("starting", "status", None), "starting", True),
        ("idle", News("starting", "status", None), "starting", True),
        ("idle", News("idle", "stream", INFO), "idle", False),
        ("idle", News("idle", "stream", EXECUTE), "idle", True),
        ("busy", News("busy", "stream", INFO), "busy", True),
        ("idle", News("idle", "comm_msg", None), "idle", True),
    ],
)
def test_messages_change_a_kernels_state_by_the_rules_of_jupyter_server(
    before: str, news: News, state: str, is_active: bool
) -> None:
    assert after(before, news) == (state, is_active)


@pytest.mark.parametrize(
    ("before", "said", "state"),
    [
        ("starting", "busy", "busy"),
        ("idle", "busy", "busy"),
        ("busy", "idle", "idle"),
        ("starting", "idle", "idle"),
        ("starting", "starting", "starting"),
        ("idle", "starting", "idle"),
    ],
)
def test_the_state_that_is_told_first_is_taken_and_is_no_activity(
    before: str, said: str, state: str
) -> None:
    assert after(before, News(said, None, None)) == (state, False)
