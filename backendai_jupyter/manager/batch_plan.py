"""What a batch session will run, worked out before it is accepted: nothing is left to be found out
by a container that has waited for hours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from backendai_jupyter.domain.batch import (
    RUNNER_ARGV,
    Batch,
)
from backendai_jupyter.domain.batch_request import BatchRequest, in_folders
from backendai_jupyter.domain.cluster import FailurePolicy
from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import NewSession, Viewer
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import InvalidInput, NotFound
from backendai_jupyter.manager.vfolders import VFolders, kernel_path_of
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.files import reading

MAX_NOTEBOOK_BYTES = 256 << 20
_LANGUAGES = frozenset({"python", "r"})  # of which parameters can be written


@dataclass(frozen=True, slots=True)
class NotebookFacts:
    """What a notebook says of itself."""

    kernelspec: str = ""
    options: Options = field(default_factory=Options)


async def facts_of(vfolders: VFolders, path: str, viewer: Viewer) -> NotebookFacts:
    """Read the metadata of a notebook; raises ``InvalidInput`` if there is none at ``path``."""
    home = await vfolders.home(viewer)
    try:
        metadata = await asyncio.to_thread(_metadata, home, in_folders(path).split("/"))
    except NotFound as error:
        raise InvalidInput("batch.notebook", str(error)) from None
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InvalidInput("batch.notebook", f"{path!r} is no notebook") from None
    asked = metadata.get("backendai")
    return NotebookFacts(
        kernelspec=str(metadata.get("kernelspec", {}).get("name", "")),
        options=Options() if asked is None else Options.parse(asked, field="metadata.backendai"),
    )


def planned(new: NewSession, *, asked: BatchRequest, language: str) -> NewSession:
    """Return the session as one that runs by itself; raises ``InvalidInput`` naming the field."""
    if asked.parameters and language.lower() not in _LANGUAGES:
        problem = f"they cannot be given to notebooks of {language}, only of Python and R"
        raise InvalidInput("batch.parameters", problem)
    if asked.retries and new.cluster_size > 1 and new.failure_policy is FailurePolicy.DEGRADED:
        problem = "a session that goes on without kernels that have ended is not tried again"
        raise InvalidInput("batch.retries", problem)
    batch = Batch(
        notebook=_place(asked.notebook, new.mounts, "batch.notebook"),
        output=_output(asked, new.mounts),
        parameters=dict(asked.parameters),
        command=asked.command,
        log=_place(asked.log, new.mounts, "batch.log", is_written=True),
        language=language,
        kernel_argv=new.argv,
        timeout_s=asked.timeout_s,
        retries=asked.retries,
        retry_on=asked.retry_on,
    )
    return replace(new, argv=RUNNER_ARGV, batch=batch)


def _output(asked: BatchRequest, mounts: Sequence[Mount]) -> str:
    if not asked.notebook:
        return ""
    beside = str(PurePosixPath(in_folders(asked.notebook)).with_suffix(".out.ipynb"))
    output = _place(asked.output or beside, mounts, "batch.output", is_written=True)
    if output == _place(asked.notebook, mounts, "batch.notebook"):
        raise InvalidInput("batch.output", "it is the notebook itself")
    return output


def _place(path: str, mounts: Sequence[Mount], field: str, *, is_written: bool = False) -> str:
    """Return where the session sees a path of a folder."""
    if not path:
        return ""
    names = in_folders(path)
    seen = kernel_path_of(names, mounts)
    if seen is None or "/" not in names:
        problem = f"{path!r} is not in a folder that the session shows; write folder/path"
        raise InvalidInput(field, problem)
    mount = next(m for m in mounts if PurePosixPath(seen).is_relative_to(m.target))
    if is_written and mount.readonly:
        raise InvalidInput(field, f"the folder {mount.vfolder_name!r} may only be read")
    return seen


def _metadata(home: Home, names: Sequence[str]) -> dict[str, Any]:
    with home.spot(names) as spot, reading(spot) as file:
        notebook = json.loads(file.read(MAX_NOTEBOOK_BYTES))
    if not isinstance(notebook["cells"], list):
        raise TypeError("cells are a list")
    return dict(notebook["metadata"])
