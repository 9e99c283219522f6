"""What one kernel's channels take from the process, and give back."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from backendai_jupyter.agent.relay.channels import KernelChannels
from backendai_jupyter.agent.relay.iopub import JournalPlace
from backendai_jupyter.agent.relay.pace import Traffic
from backendai_jupyter.errors import RelayFailed

NUMBERS = itertools.count()


def taken() -> tuple[int, int]:
    """Return how many files and threads (ZeroMQ's own, too) this process has."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208


def channels(path: Path, bind: str = "127.0.0.1") -> KernelChannels:
    number = next(NUMBERS)  # several may be open at once
    place = JournalPlace(path / f"journal-{number}", 1 << 20, path / f"j{number}")
    return KernelChannels("k1", f"{path}/k", "secret", bind, place, Traffic())


def test_a_hundred_rounds_leave_no_file_and_no_thread(short_tmp_path: Path) -> None:
    """F26: neither ports nor files leak."""
    channels(short_tmp_path).close()
    before = taken()
    for _ in range(100):
        channels(short_tmp_path).close()
    assert taken() == before


def test_an_address_that_is_not_ours_is_refused_and_leaves_nothing(short_tmp_path: Path) -> None:
    before = taken()
    with pytest.raises(RelayFailed, match=r"cannot listen on 192\.0\.2\.1"):
        channels(short_tmp_path, bind="192.0.2.1")
    assert taken() == before


def test_following_the_kernel_elsewhere_keeps_the_endpoint(short_tmp_path: Path) -> None:
    kernel = channels(short_tmp_path)
    endpoint, before = kernel.endpoint(), taken()
    kernel.move_to(f"{short_tmp_path}/elsewhere")
    try:
        assert kernel.endpoint() == endpoint
        assert taken() == before
    finally:
        kernel.close()


def test_no_two_kernels_share_a_port_or_a_key(short_tmp_path: Path) -> None:
    kernels = [channels(short_tmp_path) for _ in range(10)]
    values = [value for kernel in kernels for value in kernel.endpoint().values()]
    for kernel in kernels:
        kernel.close()
    assert len(set(values)) == len(values) - 9  # all but the ip
