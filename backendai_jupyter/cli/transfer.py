"""``jupyter backendai vfolder upload`` and ``download``: files, and whole directories."""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from backendai_jupyter.cli.folders import Folders, connect_folders
from backendai_jupyter.cli.output import json_option, plain, print_json
from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.errors import BackendError, Conflict, InvalidInput, NotFound
from backendai_jupyter.storage.listing import Kind
from backendai_jupyter.web.models import Model

Moved = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a folder; an empty one is the folder itself."""

    ref: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``FOLDER`` or ``FOLDER:PATH``: no folder's name has a colon."""
        ref, _, path = text.partition(":")
        if not ref:
            raise InvalidInput("FOLDER", f"{text!r} names no folder; expected FOLDER:PATH")
        return cls(ref, path.strip("/"))

    def below(self, name: str) -> Place:
        return Place(self.ref, posixpath.join(self.path, name))


@dataclass(frozen=True, slots=True)
class File:
    """One file to be copied, in either direction."""

    local: Path
    remote: Place
    size_bytes: int


@dataclass(slots=True)
class Plan:
    """What there is to do; ``left_out`` is neither file nor directory."""

    files: list[File] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Transferred(Model):
    """What was copied."""

    files: int
    size_bytes: int
    left_out: list[str]


@click.command()
@click.argument(
    "sources",
    metavar="LOCAL...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.argument("target", metavar="FOLDER[:PATH]")
@json_option
def upload(sources: Sequence[Path], target: str, as_json: bool) -> None:
    """Copy files and directories of this machine into a folder, over what is there.

    Where a server runs, run it again after an interruption: a file goes on where it stopped.
    """
    into = len(sources) > 1 or target.endswith(("/", ":"))
    with _local_failures():
        _say(asyncio.run(_upload(sources, Place.parse(target), into, as_json)), as_json)


@click.command()
@click.argument("source", metavar="FOLDER[:PATH]")
@click.argument("target", metavar="[LOCAL]", default=".", type=click.Path(path_type=Path))
@json_option
def download(source: str, target: Path, as_json: bool) -> None:
    """Copy a file or a directory out of a folder to this machine, over what is there.

    Where a server runs, run it again after an interruption: a file goes on where it stopped.
    """
    with _local_failures():
        _say(asyncio.run(_download(Place.parse(source), target, as_json)), as_json)


async def _upload(sources: Sequence[Path], target: Place, into: bool, as_json: bool) -> Transferred:
    async with connect_folders() as folders:
        plan = await plan_upload(folders, sources, target, into=into)
        with _progress(plan, as_json) as report:
            for file, moved in report:
                remote = file.remote
                await folders.upload(file.local, remote.ref, remote.path, moved=moved)
        return _done(plan)


async def _download(source: Place, target: Path, as_json: bool) -> Transferred:
    async with connect_folders() as folders:
        plan = await plan_download(folders, source, target)
        with _progress(plan, as_json) as report:
            for file, moved in report:
                remote = file.remote
                await folders.download(remote.ref, remote.path, file.local, moved=moved)
        return _done(plan)


async def plan_upload(
    folders: Folders, sources: Sequence[Path], target: Place, *, into: bool
) -> Plan:
    """Make the directories that are needed, and return the files to be copied.

    As ``cp`` does: what is copied goes ``into`` a directory that exists, or else becomes
    ``target``.
    """
    if into:
        await folders.make_directory(target.ref, target.path)
    into = into or await _is_directory(folders, target)
    plan = Plan()
    for source in sources:
        where = target.below(source.resolve().name) if into else target
        if not source.is_dir():
            plan.files.append(File(source, where, source.stat().st_size))
            continue
        await folders.make_directory(where.ref, where.path)
        for found, relative in await asyncio.to_thread(lambda top: list(_below(top)), source):
            remote = where.below(relative)
            if found.is_symlink() or not (found.is_dir() or found.is_file()):
                plan.left_out.append(str(found))
            elif found.is_dir():
                await folders.make_directory(remote.ref, remote.path)
            else:
                plan.files.append(File(found, remote, found.stat().st_size))
    return plan


async def plan_download(folders: Folders, source: Place, target: Path) -> Plan:
    """Make the directories that are needed here, and return the files to be copied."""
    local = await asyncio.to_thread(_local_of, source, target)
    plan = Plan()
    if not await _is_directory(folders, source):
        plan.files.append(File(local, source, 0))
        return plan
    pending = [(source, local)]
    while pending:
        directory, here = pending.pop()
        here.mkdir(parents=True, exist_ok=True)
        for entry in (await folders.entries(directory.ref, directory.path)).root:
            remote, beside = directory.below(entry.name), here / entry.name
            if entry.kind is Kind.DIRECTORY:
                pending.append((remote, beside))
            elif entry.kind is Kind.FILE:
                plan.files.append(File(beside, remote, entry.size_bytes))
            else:
                plan.left_out.append(f"{remote.ref}:{remote.path}")
    return plan


async def _is_directory(folders: Folders, place: Place) -> bool:
    try:
        await folders.entries(place.ref, place.path)
    except (Conflict, NotFound):
        return False
    return True


def _local_of(source: Place, target: Path) -> Path:
    """Return where a download goes: into a directory that exists, else to ``target`` itself."""
    if not target.is_dir():
        return target
    return target / (posixpath.basename(source.path) or source.ref)


def _below(top: Path) -> Iterator[tuple[Path, str]]:
    """Yield all that is below a directory, each directory before what is in it."""
    for folder, names, files in os.walk(top):
        for name in sorted((*names, *files)):
            found = Path(folder, name)
            yield found, found.relative_to(top).as_posix()


@contextmanager
def _local_failures() -> Iterator[None]:
    """Say in a sentence what is wrong with a file of this machine."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"{error.filename}: {error.strerror}.") from error


@contextmanager
def _progress(plan: Plan, as_json: bool) -> Iterator[Iterator[tuple[File, Moved]]]:
    """Yield the plan's files, each with what reports its progress; a bar on a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
        yield _reporting(plan, bar)


def _reporting(plan: Plan, bar: Progress) -> Iterator[tuple[File, Moved]]:
    task = bar.add_task("", total=sum(file.size_bytes for file in plan.files) or None)
    before = 0
    for file in plan.files:
        bar.update(task, description=escape(plain(file.local.name)))

        def moved(count: int, before: int = before) -> None:
            bar.update(task, completed=before + count)

        yield file, moved
        before += file.size_bytes


def _done(plan: Plan) -> Transferred:
    size = sum(file.local.stat().st_size for file in plan.files)
    return Transferred(files=len(plan.files), size_bytes=size, left_out=plan.left_out)


def _say(done: Transferred, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    files = "1 file" if done.files == 1 else f"{done.files} files"
    click.echo(f"{files}, {size_for_people(done.size_bytes)}.")
    for name in done.left_out:
        click.echo(f"{plain(name)} was left out: it is neither a file nor a directory.", err=True)
