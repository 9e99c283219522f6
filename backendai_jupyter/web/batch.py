"""Accept a batch session: what its notebook says of itself, what is asked for, and the row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.manager.batch_plan import NotebookFacts, facts_of, planned
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.sessions import Plan
from backendai_jupyter.provisioning.kernelspecs import DEFAULT_KERNEL, is_ours, request_of
from backendai_jupyter.web.dry_run import NewSession

T = TypeVar("T")
Ask = Callable[[Coroutine[Any, Any, T]], Awaitable[T]]


async def asked_for(
    body: NewSession, manager: Manager, viewer: Viewer, specs: KernelSpecManager, ask: Ask[Any]
) -> tuple[Request, Plan]:
    """Return the request for a batch session and what completes it.

    ``specs`` is asked here, the manager through ``ask``.  Raises ``InvalidInput``.
    """
    asked = body.batch_request()
    facts = NotebookFacts()
    if asked.notebook:
        facts = await ask(facts_of(manager.vfolders, asked.notebook, viewer))
    name = body.kernelspec or _own(specs, facts.kernelspec) or DEFAULT_KERNEL
    request = request_of(specs, name, body.backendai)
    language = str(specs.get_kernel_spec(name).language)
    complete = replace(
        request,
        layers=(facts.options, *request.layers),
        contents_path=asked.works_in,
        notebook=asked.notebook or None,
        name=body.name or asked.name,
    )
    return complete, partial(planned, asked=asked, language=language)


def _own(specs: KernelSpecManager, name: str) -> str:
    """Return the name of a notebook's kernelspec if it is one of ours, else nothing."""
    try:
        return name if name and is_ours(specs.get_kernel_spec(name)) else ""
    except NoSuchKernel:
        return ""
