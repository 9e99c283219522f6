"""When the output of local kernels is limited."""

from __future__ import annotations

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets.config import Config

from backendai_jupyter.web.kernel_websocket import limits_are_wanted


class OfTheAdministrator(ZMQChannelsWebsocketConnection):
    """A connection class that somebody has configured."""


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, False),
        ({"ZMQChannelsWebsocketConnection": {}}, False),
        ({"ZMQChannelsWebsocketConnection": {"kernel_ws_protocol": ""}}, False),
        ({"ZMQChannelsWebsocketConnection": {"limit_rate": True}}, True),
        ({"ZMQChannelsWebsocketConnection": {"iopub_data_rate_limit": 1e9}}, True),
        ({"OfTheAdministrator": {"iopub_msg_rate_limit": 10}}, True),
        ({"Another": {"limit_rate": True}}, False),
    ],
)
def test_output_is_limited_where_the_administrator_says_so(
    config: dict[str, dict[str, object]], wanted: bool
) -> None:
    assert limits_are_wanted(OfTheAdministrator, Config(config)) is wanted
