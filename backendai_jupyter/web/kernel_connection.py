"""A kernel websocket that reads the kernel's journal: nothing is lost.

Requests go to the kernel as jupyter_server sends them, over ZeroMQ.  All that comes back is
read from the journal, where also the answers to these requests are.  What a client has
confirmed by pongs (``window.py``) is acknowledged to the relay; the rest is sent again when
the session comes back, and JupyterLab drops what it has had (``labextension/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClosedError

from backendai_jupyter.agent.relay.pace import Pace
from backendai_jupyter.agent.relay.records import Kind, Record
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.activity import journal_of
from backendai_jupyter.provisioning.journal import Attached, JournalReader
from backendai_jupyter.web.kernel_messages import Translator
from backendai_jupyter.web.kernel_requests import ShellChannel
from backendai_jupyter.web.window import Window

_ATTACH_TIMEOUT_S = 20.0
_TURN_BYTES, _TURN_S = 256 << 10, 0.001  # then other kernels have theirs
_PING_AFTER_S = 0.003  # so that the few messages of a short cell have one ping behind them
_SETTLE_S = 1.0  # before the server ends: what is unconfirmed then comes twice
_QUIET_S = 0.1  # after which a dead kernel has probably said all it had to say
_TRY_AGAIN_LATER, _INTERNAL_ERROR, _SERVICE_RESTART = 1013, 1011, 1012  # of RFC 6455

log = logging.getLogger(__name__)


class JournaledConnection(ZMQChannelsWebsocketConnection):
    """Between one websocket and one kernel of ours."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._window = Window()
        self._pace = Pace(self.multi_kernel_manager.traffic)
        self._reader: JournalReader | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._attached = asyncio.Event()
        self._is_connected = False
        self._is_delivering = False
        self._turns = 0
        self._send_again_after: int | None = None
        self._next_ping: asyncio.TimerHandle | None = None

    async def _register_session(self) -> None:
        """Take the place of a connection that the same client has left behind."""
        key = f"{self.kernel_id}:{self.session.session}"
        stale = self._open_sessions.get(key)
        await super()._register_session()  # type: ignore[no-untyped-call] # its base
        if stale is not None and isinstance(stale.connection, JournaledConnection):
            stale.connection.disconnect()

    def request_kernel_info(self) -> Future[Any]:
        """Ask nothing: a busy kernel would answer late, and here nobody needs the answer."""
        self._kernel_info_future.set_result({})
        return self._kernel_info_future

    def create_stream(self) -> None:
        """Open the channels to the kernel; answers are read from the journal instead."""
        for channel in ("shell", "control", "stdin"):
            connect = getattr(self.kernel_manager, f"connect_{channel}")
            self.channels[channel] = stream = connect(identity=self.session.bsession)
            stream.on_recv(_ignore, copy=False)
        self._shell = self.channels["shell"] = ShellChannel(self.channels["shell"])

    def handle_incoming_message(self, incoming_msg: str) -> None:
        """Pass on what the client asks; a flood of another kernel makes room for the answer."""
        self._pace.asked(time.monotonic())
        super().handle_incoming_message(incoming_msg)

    async def connect(self) -> None:  # type: ignore[override] # awaited all the same
        """Return when the client misses nothing any more that it may ask for."""
        self.multi_kernel_manager.notify_connect(self.kernel_id)
        self._is_connected = True
        self._open_sockets.add(self)
        self.channels = {}
        self.create_stream()
        add_callback = self.multi_kernel_manager.add_restart_callback
        add_callback(self.kernel_id, self.on_kernel_restarted)
        add_callback(self.kernel_id, self.on_restart_failed, "dead")
        self._reader = JournalReader(
            self.session.session,
            journal_of(self.multi_kernel_manager, self.kernel_id),
            self._relay_returned,
        )
        supervisor = self.multi_kernel_manager.supervisor
        name = f"websocket of kernel {self.kernel_id}"
        self._pumping = supervisor.task(name, self._pump(self._reader))
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                await self._attached.wait()
        except TimeoutError:
            self.log.error("The journal of kernel %s cannot be read.", self.kernel_id)
            self.websocket_handler.close(_TRY_AGAIN_LATER, "The kernel's relay does not answer.")

    def disconnect(self) -> None:  # type: ignore[override] # as in the class above
        """Leave; what the client has not confirmed waits for it in the journal."""
        if not self._is_connected:
            return
        self._is_connected = False
        if self._pumping is not None:
            self._pumping.cancel()
        if self._next_ping is not None:
            self._next_ping.cancel()
        kernels = self.multi_kernel_manager
        kernels.notify_disconnect(self.kernel_id)
        if self._open_sessions.get(self.session_key) is self.websocket_handler:
            del self._open_sessions[self.session_key]
        if self.kernel_id in kernels:
            kernels.remove_restart_callback(self.kernel_id, self.on_kernel_restarted)
            kernels.remove_restart_callback(self.kernel_id, self.on_restart_failed, "dead")
        for stream in self.channels.values():
            if not stream.closed():
                stream.close()
        self.channels = {}
        self._open_sockets.discard(self)
        self._close_future.set_result(None)

    async def settle(self) -> None:
        """Send nothing more, and wait a moment for the client to confirm what it got."""
        if self._is_connected:
            self._window.hold()
            self._ping()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_S):
                    await self._window.settled()

    def on_pong(self, payload: bytes) -> None:
        """Learn what the client has certainly received."""
        if self._is_connected and self._reader is not None and self._window.pong(payload):
            self._reader.ack(self._window.confirmed_seq)
            self._ping()

    def _relay_returned(self, attached: Attached) -> None:
        """Send again, if the kernel knows what it has had, what was lost with the relay.

        What the journal has is still to be read; then it is known what it does not have.
        """
        if any("ipykernel" in part for part in self.kernel_manager.kernel_spec.argv):
            self._send_again_after = attached.head
            if attached.after >= attached.head:
                self._send_again()

    def _send_again(self) -> None:
        self._send_again_after = None
        if count := self._shell.send_again():
            log.warning("kernel %s: sent %d request(s) again", self.kernel_id, count)

    def on_kernel_restarted(self) -> None:
        self._shell.forget()
        super().on_kernel_restarted()  # type: ignore[no-untyped-call] # its base

    def _send_status_message(self, status: str) -> None:
        """Tell of a restart, after what the former program has printed."""
        IOLoop.current().call_later(_QUIET_S, self._tell_when_quiet, status, self._turns)

    def _tell_when_quiet(self, status: str, turns: int) -> None:
        if not self._is_connected:
            return
        if self._is_delivering or self._turns != turns:
            self._send_status_message(status)
        else:
            super()._send_status_message(status)  # type: ignore[no-untyped-call] # its base

    async def _pump(self, reader: JournalReader) -> None:
        translator = self._translator()
        try:
            await reader.attach()
            self._attached.set()
            async for records in reader:
                self._is_delivering = True
                await self._deliver(records, translator)
                self._is_delivering = False
                reader.ack(self._window.confirmed_seq)
            if self.kernel_id in self.multi_kernel_manager:
                self.websocket_handler.close(_SERVICE_RESTART, "The kernel was replaced.")
        except (WebSocketClosedError, Unavailable):
            self.log.debug("websocket of kernel %s: nobody is there", self.kernel_id)
        except Exception:  # raised again; its client must learn that nothing more comes
            self.websocket_handler.close(_INTERNAL_ERROR)
            raise
        finally:
            self._is_delivering = False
            self._attached.set()
            reader.close()

    async def _deliver(self, records: Iterable[Record], translator: Translator) -> None:
        """Write these records, in turns with whatever else the server has to do."""
        turn = _Turn()
        for record in records:
            message = self._translate(record, translator)
            if message is not None:
                if not self._window.has_room(len(message)):
                    await self._finish(turn)
                    turn = _Turn()
                    await self._window.room(len(message))
                turn.writes.append(self.write_message(message, isinstance(message, bytes)))
                turn.size_bytes += len(message)
                self._window.wrote(len(message))
            self._window.dealt_with(record.seq)
            if record.kind is Kind.REQUEST:
                self._shell.saw(bytes(record.frames[1]))
            if self._send_again_after is not None and record.seq >= self._send_again_after:
                self._send_again()
            if turn.is_over():
                await self._finish(turn)
                turn = _Turn()
        await self._finish(turn)

    def _translate(self, record: Record, translator: Translator) -> bytes | str | None:
        try:
            return translator.message(record)
        except Exception:  # one message that nobody understands must not keep back the others
            log.exception("record %d of kernel %s is malformed", record.seq, self.kernel_id)
            return None

    async def _finish(self, turn: _Turn) -> None:
        """Wait until all of a turn is on its way, and let others have a turn."""
        self._turns += 1
        if turn.writes:
            self._ping_soon()
            now_s = time.monotonic()
            began_s, size_bytes = turn.began_s, turn.size_bytes
            self._pace.passed(len(turn.writes), size_bytes, began_s=began_s, now_s=now_s)
            await asyncio.gather(*turn.writes)
            await asyncio.sleep(self._pace.rest_s(time.monotonic()))

    def _ping_soon(self) -> None:
        if self._window.has_much_to_confirm:
            self._ping()
        elif self._next_ping is None:
            self._next_ping = asyncio.get_running_loop().call_later(_PING_AFTER_S, self._ping)

    def _ping(self) -> None:
        if self._next_ping is not None:
            self._next_ping.cancel()
            self._next_ping = None
        payload = self._window.ping()
        if payload is not None:
            with contextlib.suppress(WebSocketClosedError):  # who writes learns of it
                self.websocket_handler.ping(payload)

    def _translator(self) -> Translator:
        kernels = self.multi_kernel_manager
        instead = None if kernels.allow_tracebacks else kernels.traceback_replacement_message
        return Translator(self.session, self.subprotocol, instead_of_traceback=instead)


async def settle_all() -> None:
    """Let the clients of all connections confirm what they got, before the server ends."""
    ours = [
        one for one in JournaledConnection._open_sockets if isinstance(one, JournaledConnection)
    ]
    await asyncio.gather(*(one.settle() for one in ours))


class _Turn:
    """What is written before the server's loop goes on with other things."""

    def __init__(self) -> None:
        self.writes: list[asyncio.Future[None]] = []
        self.size_bytes = 0
        self.began_s = time.monotonic()

    def is_over(self) -> bool:
        return self.size_bytes >= _TURN_BYTES or time.monotonic() >= self.began_s + _TURN_S


def _ignore(_: object) -> None:
    """Take what the journal has as well off a socket."""
