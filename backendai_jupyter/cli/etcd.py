"""``jupyter backendai etcd``: the settings that a cluster shares."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TextIO, TypeVar

import click
from pydantic import BaseModel, RootModel

from backendai_jupyter.cli.output import json_option, print_json, print_table
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.cluster.shared_config import (
    GLOBAL,
    SharedSetting,
    check_scope,
    delete_setting,
    list_settings,
    put_settings,
    read_settings,
)
from backendai_jupyter.cluster.stores import open_cluster_store
from backendai_jupyter.config import BackendAI, load_files
from backendai_jupyter.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


class Shared(BaseModel):
    """One value of one setting in one scope; ``problem`` says why a wrong one is not applied."""

    scope: str
    name: str
    value: Any
    problem: str


class SharedList(RootModel[list[Shared]]):
    """All of them, by scope and name."""


@click.group()
def etcd() -> None:
    """Shared configuration in etcd: put-json, get, delete.

    It is found at BackendAI.etcd_url of the Jupyter configuration, or at --etcd-url.
    """


def etcd_option(command: F) -> F:
    return click.option(
        "--etcd-url",
        default="",
        help="Address of etcd, as BackendAI.etcd_url; others see what stands on a command line, "
        "so name a password's file: ?passwordfile=.",
    )(command)


def scope_option(**options: Any) -> Callable[[F], F]:
    return click.option("--scope", metavar="global|group:NAME|node:ID", **options)


@etcd.command("put-json")
@click.argument("file", type=click.File())
@scope_option(default=GLOBAL, show_default=True, help="Whom the settings are for.")
@json_option
@etcd_option
def put_json(file: TextIO, scope: str, as_json: bool, etcd_url: str) -> None:
    """Share the settings of a JSON file (- is standard input), all or none.

    For example {"BackendAIAgent.cpu_overcommit": 4, "BackendAI": {"full_pass_s": 1}}.  Managers
    and agents follow at once.
    """
    settings = read_settings(_content(file), field=file.name)
    _show(asyncio.run(_put(etcd_url, scope, settings)), as_json=as_json)


@etcd.command("get")
@scope_option(default=None, help="Only what is in this scope.")
@json_option
@etcd_option
def get(scope: str | None, as_json: bool, etcd_url: str) -> None:
    """Show what is shared, and what is wrong with it."""
    if scope is not None:
        check_scope(scope)
    found = [one for one in asyncio.run(_list(etcd_url)) if scope in {None, one.scope}]
    _show(found, as_json=as_json)


@etcd.command("delete")
@click.argument("name")
@scope_option(default=GLOBAL, show_default=True, help="Where it is shared.")
@json_option
@etcd_option
def delete(name: str, scope: str, as_json: bool, etcd_url: str) -> None:
    """Share a setting no longer; what a wider scope says holds then, or its default.

    Shows what was there.
    """
    _show([asyncio.run(_delete(etcd_url, scope, name))], as_json=as_json)


def _show(settings: list[SharedSetting], *, as_json: bool) -> None:
    if as_json:
        print_json(SharedList([Shared(**asdict(one)) for one in settings]))
        return
    rows = [
        (one.scope, one.name, "" if one.problem else json.dumps(one.value), one.problem)
        for one in settings
    ]
    print_table(("SCOPE", "NAME", "VALUE", "PROBLEM"), rows)


def _content(file: TextIO) -> str:
    try:
        return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(file.name, f"cannot be read: {error}") from None


async def _put(url: str, scope: str, settings: dict[str, Any]) -> list[SharedSetting]:
    async with _store(url) as store:
        return await put_settings(store, scope, settings)


async def _list(url: str) -> list[SharedSetting]:
    async with _store(url) as store:
        return await list_settings(store)


async def _delete(url: str, scope: str, name: str) -> SharedSetting:
    async with _store(url) as store:
        return await delete_setting(store, scope, name)


@asynccontextmanager
async def _store(url: str) -> AsyncIterator[ClusterStore]:
    address = url or BackendAI(config=load_files()).etcd_url
    if not address:
        raise InvalidInput("BackendAI.etcd_url", "is not set; say where etcd is with --etcd-url")
    async with open_cluster_store(address) as store:
        yield store
