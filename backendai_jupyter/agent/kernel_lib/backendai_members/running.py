"""Run code on members and gather what they say: the same for a cell and for Python."""

from __future__ import annotations

import signal
import threading

from IPython import get_ipython

from .calls import Call
from .labels import Labels
from .local import run_here
from .place import Place
from .results import MembersFailed, MembersInterrupted, Result

GRACE_S = 5.0  # for a cell that ran out of time to end by its interrupt


def here() -> str:
    """Return the name of this member: ``main1``, ``sub1`` and so on."""
    return Place.here().host


def hosts() -> tuple[str, ...]:
    """Return the names of all members, main1 first."""
    return Place.here().hosts


def run(
    code: str,
    members: str = "all",
    *,
    timeout: float | None = None,
    quiet: bool = False,
    check: bool = True,
) -> dict[str, Result]:
    """Run ``code`` on ``members`` at once, show what they say and return it by host.

    ``members`` is ``all``, ``subs`` or ``HOST[,HOST]``.  After ``timeout`` seconds, and with a
    ``KeyboardInterrupt`` here, the code is interrupted everywhere.  Raises ``MembersFailed``,
    unless ``check`` is false, where it has not ended well on each of them.
    """
    place, shell = Place.here(), get_ipython()
    results = {host: Result(host) for host in place.select(members)}
    mine = results.get(place.host)
    cell = shell.transform_cell(code)
    if mine is not None and shell.should_run_async(code, transformed_cell=cell):
        raise NotImplementedError(
            f"await at the top level of a cell does not work on {place.host}, which waits for "
            "this cell; use `subs`, or asyncio.run in a thread"
        )
    labels = Labels(shell.display_pub, quiet=quiet)
    others = {host: result for host, result in results.items() if result is not mine}
    call = Call(code, others, place.keys, labels)
    limit = Limit(timeout, call, mine)
    call.start()
    try:
        if mine is not None:
            run_here(shell, code, labels, mine)
        interrupted = mine is not None and mine.status == "interrupted"
        if interrupted:
            call.stop()
        interrupted |= _until_ended(call)
    finally:
        call.stop()
        limit.cancel()
    if limit.expired:
        for result in results.values():
            result.evalue = result.evalue or limit.words if not result.ok else ""
    elif interrupted:
        raise MembersInterrupted(results)
    if check and not all(result.ok for result in results.values()):
        raise MembersFailed(results)
    return results


class Limit:
    """Interrupts a cell everywhere when its time is over, and leaves alone who goes on then."""

    def __init__(self, timeout_s: float | None, call: Call, mine: Result | None) -> None:
        self.expired = False
        self.words = f"interrupted after {timeout_s} s"
        self._call = call
        self._mine = mine
        self._timers = []
        if timeout_s is not None:
            steps = ((timeout_s, self._expire), (timeout_s + GRACE_S, call.abandon))
            self._timers = [threading.Timer(after_s, step) for after_s, step in steps]
        for timer in self._timers:
            timer.daemon = True
            timer.start()

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self._call.stop()
        if self._mine is not None and self._mine.status == "running":
            main = threading.main_thread().ident
            signal.pthread_kill(main or 0, signal.SIGINT)  # which also ends a long wait


def _until_ended(call: Call) -> bool:
    """Wait; an interrupt interrupts the others, a second one leaves them alone.

    Returns whether there was one.
    """
    interrupted = False
    for react in (call.stop, call.abandon, call.abandon):
        try:
            call.wait()
        except KeyboardInterrupt:
            interrupted = True
            react()
        else:
            break
    return interrupted
