"""The requests under way when the server stops: they get a moment to finish, then an end.

jupyter_server stops its event loop whatever is under way.  A request that is then in one of
AnyIO's threads never goes on, so that nobody tells its thread to end, and Python waits for that
thread for ever: stock servers that are stopped while a page is loading stay (jupyterlab #10442).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

log = logging.getLogger(__name__)

_FINISH_S = 3.0  # for those that will end by themselves
_END_S = 10.0  # for the thread of one that is cut off to get to its end


async def end_requests(server: HTTPServer | None) -> None:
    """Return when no request is under way any more, and none can come on a connection of old.

    Websockets are left to those who have opened them.
    """
    if under_way := _requests():
        await asyncio.wait(under_way, timeout=_FINISH_S)
    if server is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await server.close_all_connections()
    cut_off = _requests()
    for task, handler in cut_off.items():
        log.warning("%s was cut off: the server stops.", _name(handler))
        task.cancel()
    if cut_off:
        _, stuck = await asyncio.wait(cut_off, timeout=_END_S)
        for task in stuck:
            log.error("%s does not end; the server may have to be killed.", _name(cut_off[task]))


def _requests() -> dict[asyncio.Task[Any], RequestHandler]:
    """Return the task and the handler of each request; Tornado keeps no list of them."""
    handlers = {task: _handler(task) for task in asyncio.all_tasks()}
    return {
        task: handler
        for task, handler in handlers.items()
        if handler is not None and not isinstance(handler, WebSocketHandler)
    }


def _handler(task: asyncio.Task[Any]) -> RequestHandler | None:
    work = task.get_coro()
    if not inspect.iscoroutine(work) or work.cr_code is not RequestHandler._execute.__code__:
        return None
    return inspect.getcoroutinelocals(work).get("self")


def _name(handler: RequestHandler) -> str:
    return f"{handler.request.method} {handler.request.path}"
