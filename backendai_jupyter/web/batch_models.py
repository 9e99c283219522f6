"""What the REST API takes and says of batch sessions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backendai_jupyter.domain import batch, records
from backendai_jupyter.domain.batch import RETRIED, End, read_timeout
from backendai_jupyter.domain.batch_ends import attempts_of, end_of
from backendai_jupyter.domain.batch_request import BatchRequest
from backendai_jupyter.errors import InvalidInput


class NewBatch(BaseModel):
    """What a batch session runs: a notebook or a command.  Paths are `folder/path`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notebook: str = ""
    output: str = Field(
        default="", description="the executed notebook; default: `NAME.out.ipynb` beside it"
    )
    parameters: dict[str, object] = Field(
        default={}, description="as papermill's: set after the cell that is tagged `parameters`"
    )
    command: list[str] = Field(default=[], description="run as it is, its exit code is the result")
    workdir: str = Field(
        default="", description="default: the notebook's directory; of a command the home directory"
    )
    log: str = Field(default="", description="a file for all that is written to stdout and stderr")
    timeout: float | str | None = Field(
        default=None,
        description="of each attempt: seconds above 0, or e.g. `30m`, `1.5h`; null: none",
    )
    retries: int = Field(default=0, description="how often it is tried again")
    retry_on: list[str] = Field(
        default=list(RETRIED), description="after which ends; also possible: `timed-out`"
    )

    def request(self) -> BatchRequest:
        """Return what is asked for; raises ``InvalidInput``."""
        try:
            retry_on = tuple(End(one) for one in self.retry_on)
        except ValueError as error:
            raise InvalidInput("batch.retry_on", str(error)) from None
        return BatchRequest(
            notebook=self.notebook,
            output=self.output,
            parameters=self.parameters,
            command=tuple(self.command),
            workdir=self.workdir,
            log=self.log,
            timeout_s=read_timeout(self.timeout, field="batch.timeout"),
            retries=self.retries,
            retry_on=retry_on,
        )


class Progress(BaseModel):
    """How far a notebook is; its code cells are counted, the first one is 1."""

    cell: int = Field(description="that is under way, or was the last one; 0: none has begun")
    cells: int
    since: float = Field(description="when this cell began, by the clock of the node")
    begun: float = Field(description="when the attempt did")


class BatchView(BaseModel):
    """What a batch session runs, how far it is and how it ended; paths are those of kernels."""

    notebook: str
    output: str
    parameters: dict[str, object]
    command: list[str]
    log: str
    timeout_s: float | None = Field(description="of each attempt; null: as long as it takes")
    attempt: int = Field(description="the one that runs, waits or was the last")
    attempts: int = Field(description="how many there may be")
    end: End | None = Field(description="how it ended; null while it waits or runs")
    progress: Progress | None = Field(default=None, description="of a notebook")


def batch_of(session: records.ComputeSession) -> BatchView | None:
    """Return what the row says of a batch; how far it is while it runs an agent says."""
    asked, ending = session.batch, session.main.exit
    if asked is None:
        return None
    return BatchView(
        notebook=asked.notebook,
        output=asked.output,
        parameters=asked.parameters,
        command=list(asked.command),
        log=asked.log,
        timeout_s=asked.timeout_s,
        attempt=session.main.generation,
        attempts=attempts_of(session),
        end=end_of(session),
        progress=progress_of(ending.progress if ending else None),
    )


def progress_of(progress: batch.CellProgress | None) -> Progress | None:
    return None if progress is None else Progress(**progress.model_dump())
