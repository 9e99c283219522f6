"""Every error this package raises on purpose.

* BackendError
  x InvalidInput           what was asked is malformed; ``field`` names the culprit
  x NotFound               the named thing does not exist, or the caller may not see it
  x Conflict               it exists, in a state that forbids the request
    + LostRace             somebody else moved the row first; read again
    + Cancelled            its end was asked for while it started
  x Refused                the caller asked for more than it may have
    + NeverFits            no agent could run it even when empty; ``slot`` says why
  x NoCapacity             valid, but no agent can take it now; it waits
  x LaunchFailed           a kernel could not start; ``step`` says where
  x RuntimeFailed          the container engine or sandbox refused or broke
    + EngineAway           nobody answers where it should be
    + PullFailed           an image could not be fetched
      + NotLetIn           its registry wants a user who may have it
      + NoSuchImage        its registry does not have it
      + WrongPlatform      it is made for other machines than this one
      + NoSpace            there is no room for it
      + RegistryAway       its registry cannot be reached, or broke
  x RelayFailed            the relay process refused or broke
    + RelayLost            it has died, and is being started again
  x Unavailable            a part of the system cannot be reached; retry later
    + TimedOut             it was reached and did not finish in time
    + InDoubt              it went away before it confirmed a change, which may have been made
    + GaveWay              it undid a change in favour of another; nothing has changed
    + WrongSchema          the database was made for another version of this program

HTTP lives in ``web/base.py``, which maps these classes to status codes.
"""

from __future__ import annotations

from typing import ClassVar


class BackendError(Exception):
    """Root of the tree; ``code`` is stable, and ``str(error)`` is a sentence for users."""

    code: ClassVar[str] = "internal"


class InvalidInput(BackendError):
    """``field`` is the dotted name of the offending field, e.g. ``backendai.resources.mem``."""

    code = "invalid-input"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFound(BackendError):
    code = "not-found"


class Conflict(BackendError):
    code = "conflict"


class LostRace(Conflict):
    code = "lost-race"


class Cancelled(Conflict):
    code = "cancelled"


class Refused(BackendError):
    code = "refused"


class NeverFits(Refused):
    code = "never-fits"

    def __init__(self, slot: str, message: str) -> None:
        super().__init__(message)
        self.slot = slot


class NoCapacity(BackendError):
    code = "no-capacity"


class LaunchFailed(BackendError):
    """``step`` is the name of the launch step that failed, e.g. ``container``.

    ``cause`` is the code of the error that it failed with, where that is of use to a program.
    """

    code = "launch-failed"

    def __init__(self, step: str, message: str, log_tail: str = "", *, cause: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.log_tail = log_tail
        self.cause = cause


class RuntimeFailed(BackendError):
    code = "runtime-failed"


class EngineAway(RuntimeFailed):
    code = "engine-away"


class PullFailed(RuntimeFailed):
    code = "pull-failed"


class NotLetIn(PullFailed):
    code = "not-let-in"


class NoSuchImage(PullFailed):
    code = "no-such-image"


class WrongPlatform(PullFailed):
    code = "wrong-platform"


class NoSpace(PullFailed):
    code = "no-space"


class RegistryAway(PullFailed):
    code = "registry-away"


class RelayFailed(BackendError):
    code = "relay-failed"


class RelayLost(RelayFailed):
    code = "relay-lost"


class Unavailable(BackendError):
    code = "unavailable"


class TimedOut(Unavailable):
    code = "timed-out"


class InDoubt(Unavailable):
    code = "in-doubt"


class GaveWay(Unavailable):
    code = "gave-way"


class WrongSchema(Unavailable):
    code = "wrong-schema"
