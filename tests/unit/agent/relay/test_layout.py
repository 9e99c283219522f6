"""What the relay promises about addresses of a kernel's sockets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jupyter_client.connect import ConnectionFileMixin

from backendai_jupyter.agent.relay.layout import CHANNELS, ipc_address, ipc_connection
from backendai_jupyter.errors import RelayFailed

LONGEST_PREFIX = "/" + "p" * 104  # the channel's suffix takes two of 107 bytes


@pytest.mark.parametrize("channel", CHANNELS)
def test_jupyter_reads_the_connection_file_as_the_relays_addresses(
    channel: str, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.json"
    file.write_text(json.dumps(ipc_connection("/run/k", "secret")))
    reader = ConnectionFileMixin()
    reader.load_connection_file(str(file))
    assert reader._make_url(channel) == ipc_address("/run/k", channel)
    assert reader.session.key == b"secret"


def test_the_longest_prefix_that_fits_a_socket_is_accepted() -> None:
    assert ipc_connection(LONGEST_PREFIX, "")["ip"] == LONGEST_PREFIX


@pytest.mark.parametrize("prefix", [LONGEST_PREFIX + "p", "/" + "é" * 60, "relative/k"])
def test_a_prefix_that_no_socket_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(RelayFailed, match="socket prefix"):
        ipc_connection(prefix, "")
