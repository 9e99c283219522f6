"""What acceptance tests do with batch sessions: write notebooks, start them, read what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from nbformat.v4 import new_code_cell, new_notebook

from backendai_jupyter.domain.states import FINAL
from tests.helpers import eventually
from tests.server import RunningServer

SESSIONS = "backendai/v1/sessions"


async def put_notebook(server: RunningServer, path: str, *cells: Any) -> None:
    made = [cell if not isinstance(cell, str) else new_code_cell(cell) for cell in cells]
    body = {"type": "notebook", "format": "json", "content": new_notebook(cells=made)}
    answer = await server.request("PUT", f"api/contents/{path}", json=body)
    assert answer.is_success, answer.text


async def notebook_in(server: RunningServer, path: str) -> dict[str, Any]:
    answer = await server.get(f"api/contents/{path}")
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()["content"]
    return found


def printed_in(notebook: dict[str, Any]) -> list[str]:
    """Return what its cells have printed, those that have printed nothing left out."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", ()))
    return ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]


async def start(
    server: RunningServer,
    kernelspec: str = "",
    options: Mapping[str, object] | None = None,
    **batch: Any,
) -> httpx.Response:
    """Ask for a batch session with these options."""
    body = {"type": "batch", "kernelspec": kernelspec, "backendai": options or {}, "batch": batch}
    return await server.post(SESSIONS, json=body)


async def started(
    server: RunningServer, *, options: Mapping[str, object] | None = None, **batch: Any
) -> str:
    answer = await start(server, options=options, **batch)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


async def session(server: RunningServer, session_id: str) -> dict[str, Any]:
    answer = await server.get(f"{SESSIONS}/{session_id}")
    found: dict[str, Any] = answer.json() if answer.is_success else {}
    return found


async def until_at(server: RunningServer, session_id: str, cell: int) -> None:
    """Wait until this cell of its notebook is under way, as the REST API says."""

    async def is_there() -> bool:
        far = ((await session(server, session_id)).get("batch") or {}).get("progress")
        return bool(far and far["cell"] == cell)

    await eventually(is_there, within_s=60)


async def until_over(
    server: RunningServer, session_id: str, *, within_s: float = 90
) -> dict[str, Any]:
    async def is_over() -> dict[str, Any] | None:
        found = await session(server, session_id)
        return found if found.get("status") in FINAL else None

    over: dict[str, Any] | None = await eventually(is_over, within_s=within_s)
    assert over is not None
    return over
