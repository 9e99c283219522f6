"""The relay opens no kernel for which it may not have enough files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.relay import process
from backendai_jupyter.errors import RelayFailed
from tests.unit.agent.relay.test_channels import channels, taken


@pytest.fixture
def limit() -> Iterator[int]:
    """The usual limit; whatever a test makes of it, it is put back."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield usual[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def test_what_a_kernel_takes_is_no_more_than_is_counted_for_it(short_tmp_path: Path) -> None:
    channels(short_tmp_path).close()
    before, _ = taken()
    kernel = channels(short_tmp_path)
    try:
        assert taken()[0] - before <= process._FILES_OF_KERNEL
    finally:
        kernel.close()


def test_a_kernel_too_many_is_refused_in_words(limit: int) -> None:
    """F28: files that run out cost nobody his kernel."""
    needed = process._FILES_OF_KERNEL + process._FILES_OF_CLIENTS
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken()[0] + needed + 1, limit))
    process._check_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken()[0] + needed - 2, limit))
    with pytest.raises(RelayFailed, match="ulimit -n"):
        process._check_files()
