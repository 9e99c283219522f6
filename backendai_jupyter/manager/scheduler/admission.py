"""Decide a whole pass: who is tried, who is placed, who waits for what.  Pure."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.manager.scheduler import explain
from backendai_jupyter.manager.scheduler.order import order
from backendai_jupyter.manager.scheduler.placement import Room
from backendai_jupyter.manager.scheduler.snapshot import (
    Decision,
    Placed,
    Snapshot,
    Waiting,
    Why,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = Placed | Why

_FAILED: Outcome = Why.DEFECT
_NOT_IN_LINE = frozenset({Why.TIME, Why.PARENT})


def decide(snapshot: Snapshot) -> list[Decision]:
    """Decide every waiting session, each group by itself, in the order of its queue.

    What is placed reduces the room of those behind it.  A session that would fit if nothing
    ran in the group, and does not fit now, holds up those behind it as the group's policy
    says.  Any other that waits holds up nobody: waiting would not help it.
    """
    by_group: dict[str, list[WaitingSession]] = defaultdict(list)
    for session in snapshot.waiting:
        by_group[session.group].append(session)
    return [
        decision
        for group in sorted(by_group)
        for decision in _Pass(snapshot, group, by_group[group]).decisions()
    ]


class _Pass:
    """One group's share of a pass."""

    def __init__(self, snapshot: Snapshot, group: str, waiting: Sequence[WaitingSession]) -> None:
        self._snapshot = snapshot
        self._group = group
        self._policy = snapshot.policy(group)
        self._broken = [s for s in waiting if not _guarded(s, partial(_is_sound, s), False)]
        sound = [s for s in waiting if s not in self._broken] if self._broken else waiting
        candidates = [c for c in snapshot.candidates if c.group == group]
        self._queue = order(
            sound,
            self._policy.order,
            capacity=Slots.total(c.capacity for c in candidates),
            usage=snapshot.usage.get(group),
        )
        self._room = Room(
            candidates,
            sound,
            snapshot.markers,
            self._policy,
            last_agent=snapshot.last_agents.get(group, ""),
        )
        self._is_held_up = False  # something that was tried waits for room

    def decisions(self) -> list[Decision]:
        tried = [
            (session, _guarded(session, partial(self._tried, session), _FAILED))
            for session in self._queue
        ]
        decided: list[Decision] = []
        position = 0
        for session, outcome in tried:
            if isinstance(outcome, Placed):
                decided.append(outcome)
                continue
            position += outcome not in _NOT_IN_LINE
            explained = partial(self._explained, session, outcome, position)
            decided.append(_guarded(session, explained, _defect(session, position)))
        return decided + [_defect(session, None) for session in self._broken]

    def _tried(self, session: WaitingSession) -> Outcome:
        if session.parents:
            return Why.PARENT
        if session.not_before > self._snapshot.now:
            return Why.TIME
        if self._is_held_up:
            return Why.TURN
        failed_on = self._snapshot.failed_on.get(session.id, ())
        agents = self._room.place(session, failed_on=failed_on)
        if agents is not None:
            return Placed(session, agents)
        if not self._room.could_hold(session):
            return Why.AGENT
        attempts = self._snapshot.attempts.get(session.id, 0)
        self._is_held_up = not self._policy.lets_others_pass(attempts)
        return Why.ROOM

    def _explained(self, session: WaitingSession, why: Why, position: int) -> Waiting:
        """Say why a session waits, by what all that were placed have left."""
        match why:
            case Why.TIME:
                return Waiting(session, why, explain.why_not_yet(session))
            case Why.PARENT:
                return Waiting(session, why, explain.why_not_after(session))
            case Why.AGENT:
                return Waiting(session, why, explain.why_no_agent(self._room, session), position)
            case Why.DEFECT:
                return _defect(session, position)
        lack = self._room.lack(session)
        shortfall = Slots() if lack is None else lack.shortfall
        if why is Why.ROOM and lack is not None:
            reason = explain.why_no_room(lack, position, self._group)
        else:
            reason = explain.why_not_its_turn(position, self._group)
        return Waiting(session, why, reason, position, shortfall)


def _defect(session: WaitingSession, position: int | None) -> Waiting:
    return Waiting(session, Why.DEFECT, explain.DEFECT, position)


def _is_sound(session: WaitingSession) -> bool:
    """Whether the session is something to place at all."""
    amounts = [amount for kernel in session.kernels for _, amount in kernel.wanted]
    return bool(session.kernels) and all(amount > 0 for amount in amounts)


def _guarded(session: WaitingSession, judge: Callable[[], T], otherwise: T) -> T:
    """Return what ``judge`` says of a session; one that it fails at must not stop the others."""
    try:
        return judge()
    except Exception:  # whatever is wrong with one session, the others are judged
        log.exception("the scheduler cannot judge session %s", session.id)
        return otherwise
