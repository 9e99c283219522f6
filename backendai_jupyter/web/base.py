"""What every handler of this extension shares; the only place that knows HTTP statuses."""

from __future__ import annotations

import errno
import json
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from jupyter_server.base.handlers import APIHandler
from pydantic import BaseModel

from backendai_jupyter import errors
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.provisioning.backend import Backend

T = TypeVar("T")

HTTP_STATUS: Mapping[type[errors.BackendError], int] = {
    errors.InvalidInput: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Refused: 403,
    errors.NeverFits: 400,
    errors.NoCapacity: 503,
    errors.LaunchFailed: 500,
    errors.Unavailable: 503,
    errors.TimedOut: 504,
}

# Of the machine, not of the request: no defect, and over when somebody has seen to it.
_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class DomainErrors(APIHandler):
    """Turns errors of ours into a status, a stable code and the error's own sentence."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = _ours(kwargs.get("exc_info", (None, None, None))[1])
        if error is None:
            super().write_error(status_code, **kwargs)
            return
        body = {"code": error.code, "message": str(error), "reason": error.code}
        for detail in ("field", "slot", "step", "cause"):
            if getattr(error, detail, ""):
                body[detail] = getattr(error, detail)
        self.set_header("Content-Type", "application/json")
        self.set_status(status_of(error))
        self.finish(json.dumps(body))

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log a refusal as one line: where in our code it was raised helps nobody."""
        error = _ours(value)
        if error is None or not _is_expected(error):
            super().log_exception(typ, value, tb)
        else:
            self.log.warning("%s %s: %s", self.request.method, self.request.path, error)


class BackendHandler(DomainErrors):
    """JSON in, JSON out, on behalf of one viewer."""

    auth_resource = "backendai"

    @property
    def backend(self) -> Backend:
        backend: Backend = self.settings["backendai_backend"]
        return backend

    @property
    def manager(self) -> Manager:
        return self.backend.manager

    @property
    def viewer(self) -> Viewer:
        return self.manager.viewer

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call to the manager where the manager lives."""
        return await self.backend.call(work)

    def respond(self, status: int, body: BaseModel | None) -> None:
        """Answer with ``body``, or with nothing but success."""
        self.set_status(status)
        if body is None:
            self.finish()
        else:
            self.finish(body.model_dump_json())


def status_of(error: errors.BackendError) -> int:
    """Return the HTTP status for an error of ours; 500 for those that mean a defect."""
    return next((HTTP_STATUS[c] for c in type(error).__mro__ if c in HTTP_STATUS), 500)


def _is_expected(error: errors.BackendError) -> bool:
    """Whether it says all there is to know, so that no traceback is wanted."""
    return any(kind in HTTP_STATUS for kind in type(error).__mro__)


def _ours(error: BaseException | None) -> errors.BackendError | None:
    """Return our error, also where jupyter_server has wrapped it in one of its own."""
    while error is not None and not isinstance(error, errors.BackendError):
        if isinstance(error, OSError) and error.errno in _FAULTS:
            return errors.Unavailable(f"The server's machine cannot do this now: {error}.")
        error = error.__cause__
    return error
