"""``/api/kernels/{id}/channels``: the journal for kernels of ours, for others what there was."""

from __future__ import annotations

import socket
from functools import partial
from http import HTTPStatus
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from tornado import web
from traitlets.config import Config

from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.activity import journal_of
from backendai_jupyter.provisioning.adoption import catch_up
from backendai_jupyter.web.kernel_connection import JournaledConnection

MAX_MESSAGE_BYTES = 256 << 20
_LIMITS = {"limit_rate", "iopub_msg_rate_limit", "iopub_data_rate_limit", "rate_limit_window"}


class ChannelsHandler(KernelWebsocketHandler):
    """Takes what jupyter_server's own takes, and larger messages."""

    @property
    def kernel_websocket_connection_class(self) -> Any:
        """Make the connection; a property's name for what jupyter_server calls."""
        if journal_of(self.kernel_manager, self.kernel_id)() is not None:
            return JournaledConnection
        chosen = super().kernel_websocket_connection_class
        has_limits = issubclass(chosen, ZMQChannelsWebsocketConnection)
        if not has_limits or limits_are_wanted(chosen, Config(self.config)):
            return chosen
        return partial(chosen, limit_rate=False)

    async def pre_get(self) -> None:
        """Look for the kernel in the whole cluster before it is not found."""
        try:
            await catch_up(self.kernel_manager, self.kernel_id)
        except Unavailable as error:
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        await super().pre_get()  # type: ignore[no-untyped-call] # its base

    @property
    def max_message_size(self) -> int:
        """In bytes, in both directions."""
        size_bytes: int = self.settings.get("websocket_max_message_size", MAX_MESSAGE_BYTES)
        return size_bytes

    async def open(self, kernel_id: str) -> None:
        """Connect to the kernel; small messages do not wait for the client's ACK."""
        self.set_nodelay(True)
        await super().open(kernel_id)  # type: ignore[no-untyped-call] # its base

    def on_pong(self, data: bytes) -> None:
        super().on_pong(data)  # type: ignore[no-untyped-call] # its base
        if isinstance(self.connection, JournaledConnection):
            self._acknowledge()
            self.connection.on_pong(data)

    def _acknowledge(self) -> None:
        """Let TCP acknowledge a pong at once, or the client's next request may wait for that.

        A client that has not set TCP_NODELAY sends one small packet at a time, and the system
        puts off its ACK by 40 ms where nothing goes the other way.
        """
        if self.ws_connection is not None and hasattr(socket, "TCP_QUICKACK"):
            stream = self.ws_connection.stream
            if stream is not None and not stream.closed():
                stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def limits_are_wanted(connection_class: type, config: Config) -> bool:
    """Return whether the administrator has said anything about limits of output."""
    names = (cls.__name__ for cls in connection_class.__mro__)
    return any(_LIMITS & config[name].keys() for name in names if name in config)


routes = [(r"/api/kernels/(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)/channels", ChannelsHandler)]
