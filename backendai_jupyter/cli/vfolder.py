"""``jupyter backendai vfolder``: folders that kernels see, from their making to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from backendai_jupyter.cli.folders import connect_folders
from backendai_jupyter.cli.output import json_option, print_json, print_table, short_ids
from backendai_jupyter.cli.session import moment
from backendai_jupyter.cli.transfer import download, upload
from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.web.vfolder_models import (
    NewVFolder,
    Restoration,
    VFolder,
    VFolderChange,
    VFolderFilter,
    VFolderHostList,
    VFolderList,
)

_READY = VFolderStatus.READY
_TRASH = VFolderStatus.DELETE_PENDING
_COLUMNS = ("NAME", "HOST", "PERMISSION", "SIZE", "FILES", "STATUS", "ID")
_HOST_COLUMNS = ("HOST", "FREE", "OF", "PATH")


@click.group()
def vfolder() -> None:
    """Virtual folders: make, change, trash, restore, purge; upload, download."""


vfolder.add_command(upload)
vfolder.add_command(download)


@vfolder.command("ls")
@click.option("--all", "everything", is_flag=True, help="Also those in the trash.")
@click.option("--trash", is_flag=True, help="Only those in the trash.")
@json_option
def ls(everything: bool, trash: bool, as_json: bool) -> None:
    """List folders with their size, and how full their hosts are."""
    statuses = [_TRASH] if trash else [_READY, _TRASH] if everything else [_READY]
    found, hosts = asyncio.run(_list(VFolderFilter(status=statuses, usage=True)))
    if as_json:
        print_json(found)
        return
    if not found.root:
        click.echo("The trash is empty." if trash else "No folder.")
    else:
        print_table(_COLUMNS, folder_rows(found.root))
        click.echo()
        print_table(_HOST_COLUMNS, host_rows(hosts))


@vfolder.command()
@json_option
def hosts(as_json: bool) -> None:
    """List the hosts of folders and how full they are."""
    found = asyncio.run(_hosts())
    if as_json:
        print_json(found)
    elif not found.root:
        click.echo("No host is in use yet.")
    else:
        print_table(_HOST_COLUMNS, host_rows(found))


@vfolder.command()
@click.argument("ref", metavar="NAME")
@json_option
def info(ref: str, as_json: bool) -> None:
    """Show one folder; the beginning of its id will do."""
    found = asyncio.run(_info(ref))
    if as_json:
        print_json(found)
    else:
        print_table(("FOLDER", found.name), folder_facts(found))


@vfolder.command()
@click.argument("name")
@click.option("--host", help="Where to make it.  Default: the default host.")
@click.option("--read-only", is_flag=True, help="Kernels may not write into it.")
@json_option
def create(name: str, host: str | None, read_only: bool, as_json: bool) -> None:
    """Make a folder."""
    permission = Permission.READ_ONLY if read_only else Permission.READ_WRITE
    made = asyncio.run(_create(NewVFolder(name=name, host=host, permission=permission)))
    _say(made, f"{made.name} is there, on the host {made.host}.", as_json)


@vfolder.command()
@click.argument("ref", metavar="NAME")
@click.argument("new_name")
@json_option
def rename(ref: str, new_name: str, as_json: bool) -> None:
    """Give a folder another name, while no kernel uses it."""
    changed = asyncio.run(_change(ref, VFolderChange(name=new_name)))
    _say(changed, f"{ref} is {changed.name} now.", as_json)


@vfolder.command()
@click.argument("ref", metavar="NAME")
@click.argument("permission", type=click.Choice([p.value for p in Permission]))
@json_option
def permission(ref: str, permission: str, as_json: bool) -> None:
    """Say whether kernels may write into a folder (rw) or only read it (ro)."""
    changed = asyncio.run(_change(ref, VFolderChange(permission=Permission(permission))))
    _say(changed, f"{changed.name} is {changed.permission} now.", as_json)


@vfolder.command()
@click.argument("refs", metavar="NAME...", nargs=-1, required=True)
@json_option
def rm(refs: Sequence[str], as_json: bool) -> None:
    """Move folders to the trash; nothing of them is lost."""
    trashed = asyncio.run(_trash(refs))
    if as_json:
        print_json(trashed)
        return
    for one in trashed.root:
        click.echo(f"{one.name} is in the trash; 'vfolder restore {one.name}' brings it back.")


@vfolder.command()
@click.argument("ref", metavar="NAME")
@click.option("--as", "new_name", metavar="NAME", help="Under another name.")
@json_option
def restore(ref: str, new_name: str | None, as_json: bool) -> None:
    """Take a folder out of the trash; the beginning of its id will do."""
    restored = asyncio.run(_restore(ref, Restoration(name=new_name)))
    _say(restored, f"{restored.name} is back.", as_json)


@vfolder.command()
@click.argument("refs", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def purge(refs: Sequence[str], yes: bool, as_json: bool) -> None:
    """Remove folders of the trash with all that is in them, for good."""
    if not yes:
        what = "this folder" if len(refs) == 1 else f"these {len(refs)} folders"
        click.confirm(f"Remove {what} for good: {', '.join(refs)}?", abort=True, err=True)
    purged = asyncio.run(_purge(refs))
    if as_json:
        print_json(purged)
        return
    for one in purged.root:
        click.echo(f"Nothing is left of {one.name}.")


def _say(folder: VFolder, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(folder)
    else:
        click.echo(sentence)


async def _list(wanted: VFolderFilter) -> tuple[VFolderList, VFolderHostList]:
    async with connect_folders() as folders:
        return await folders.list(wanted), await folders.hosts()


async def _hosts() -> VFolderHostList:
    async with connect_folders() as folders:
        return await folders.hosts()


async def _info(ref: str) -> VFolder:
    async with connect_folders() as folders:
        listed = await folders.list(VFolderFilter(status=[_READY, _TRASH]))
        ready = [one for one in listed.root if one.status is _READY and one.name == ref]
        return await folders.get(id_of(ready or listed.root, ref))


async def _create(new: NewVFolder) -> VFolder:
    async with connect_folders() as folders:
        return await folders.create(new)


async def _change(ref: str, change: VFolderChange) -> VFolder:
    async with connect_folders() as folders:
        return await folders.change(ref, change)


async def _trash(refs: Sequence[str]) -> VFolderList:
    async with connect_folders() as folders:
        # All are looked up before the first goes: a mistyped name removes nothing.
        found = [await folders.get(ref) for ref in refs]
        for folder in found:
            await folders.trash(folder.id)
        return VFolderList([await folders.get(folder.id) for folder in found])


async def _restore(ref: str, restoration: Restoration) -> VFolder:
    async with connect_folders() as folders:
        trash = (await folders.list(VFolderFilter(status=[_TRASH]))).root
        return await folders.restore(id_of(trash, ref), restoration)


async def _purge(refs: Sequence[str]) -> VFolderList:
    async with connect_folders() as folders:
        trash = (await folders.list(VFolderFilter(status=[_TRASH]))).root
        purged = []
        for folder_id in [id_of(trash, ref) for ref in refs]:
            await folders.purge(folder_id)
            purged.append(await folders.get(folder_id))
        return VFolderList(purged)


def id_of(folders: Sequence[VFolder], ref: str) -> str:
    """Return the id of the folder that is named ``ref``, or whose id begins like this.

    For none, or several, it is ``ref`` itself: whoever is then asked for it says what is wrong.
    """
    named = [folder.id for folder in folders if folder.name == ref]
    begun = [folder.id for folder in folders if folder.id.startswith(ref)]
    found = named or begun
    return found[0] if len(found) == 1 else ref


def folder_rows(folders: Sequence[VFolder]) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            one.host,
            one.permission,
            size_for_people(one.usage.size_bytes) if one.usage else "",
            str(one.usage.files) if one.usage else "",
            status_text(one),
            short,
        )
        for one, short in zip(folders, short_ids([f.id for f in folders]), strict=True)
    ]


def folder_facts(one: VFolder) -> list[tuple[str, str]]:
    facts = [
        ("id", one.id),
        ("host", one.host),
        ("permission", one.permission),
        ("status", status_text(one)),
        ("created", moment(one.created_at)),
        ("in the trash since", moment(one.trashed_at) if one.trashed_at is not None else ""),
        ("files", str(one.usage.files) if one.usage else ""),
        ("size", size_for_people(one.usage.size_bytes) if one.usage else ""),
        ("on disk", size_for_people(one.usage.disk_bytes) if one.usage else ""),
    ]
    return [fact for fact in facts if fact[1]]


def host_rows(hosts: VFolderHostList) -> list[tuple[str, ...]]:
    return [
        (
            f"{one.name} (default)" if one.is_default else one.name,
            "does not answer" if one.free_bytes is None else size_for_people(one.free_bytes),
            "" if one.total_bytes is None else size_for_people(one.total_bytes),
            one.path,
        )
        for one in hosts.root
    ]


def status_text(one: VFolder) -> str:
    return "in the trash" if one.status is _TRASH else one.status
