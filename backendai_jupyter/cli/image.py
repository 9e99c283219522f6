"""``jupyter backendai image``: what kernels start from, and how to make it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from backendai_jupyter.agent.runtime.build import build_image
from backendai_jupyter.cli.api import connect
from backendai_jupyter.cli.output import json_option, print_json, print_table
from backendai_jupyter.config import BackendAIAgent, load_files
from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.errors import NotFound
from backendai_jupyter.web.image_models import Image, ImageList, image_of

PREFIX = "backendai-"
_COLUMNS = ("NAME", "REFERENCE", "RUNTIME", "SIZE", "AGENTS", "FETCHED WHEN NEEDED BY")
OFFLINE = "--no-index --find-links wheels"


@click.group()
def image() -> None:
    """Images: list, build."""


@image.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the images that agents can start kernels from, and where each is."""
    found = asyncio.run(_list())
    if as_json:
        print_json(found)
    elif not found.root:
        click.echo("No agent has an image; 'jupyter backendai image build python' makes one.")
    else:
        print_table(_COLUMNS, image_rows(found))


@image.command()
@click.argument("name")
@click.option("--tag", help=f"What to call it.  Default: {PREFIX}NAME:latest")
@click.option(
    "--build-arg",
    "build_args",
    metavar="NAME=VALUE",
    multiple=True,
    help="An argument of the Dockerfile; may be given several times.",
)
@click.option("--base-image", metavar="REF", help="Build on this image.")
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Install Python packages from the wheels in this folder, and from nowhere else.",
)
@json_option
def build(
    name: str,
    tag: str | None,
    build_args: Sequence[str],
    base_image: str | None,
    wheels: Path | None,
    as_json: bool,
) -> None:
    """Build the image NAME (python, r, ...) from the folder of its kernelspec."""
    arguments = arguments_of(build_args, base_image=base_image, offline=wheels is not None)
    order = _Order(name, tag or f"{PREFIX}{name}:latest", arguments, wheels)
    built = asyncio.run(_build(order, progress_to_stderr=as_json))
    if as_json:
        print_json(built)
    else:
        click.echo(how_to_use(built))


@dataclass(frozen=True, slots=True)
class _Order:
    name: str
    tag: str
    arguments: dict[str, str]
    wheels: Path | None


async def _list() -> ImageList:
    async with connect() as api:
        return await api.images()


async def _build(order: _Order, *, progress_to_stderr: bool) -> Image:
    settings = BackendAIAgent(config=load_files())
    built = await build_image(
        order.name,
        await asyncio.to_thread(folder_of, order.name),
        tag=order.tag,
        build_args=order.arguments,
        wheels=order.wheels,
        url=settings.docker_url or None,
        on_line=lambda line: click.echo(line, err=progress_to_stderr),
    )
    return image_of(built, ())


def arguments_of(pairs: Sequence[str], *, base_image: str | None, offline: bool) -> dict[str, str]:
    """Return the Dockerfile's arguments; those that were spelled out win."""
    arguments = {"PIP_ARGS": OFFLINE} if offline else {}
    if base_image is not None:
        arguments["BASE_IMAGE"] = base_image
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--build-arg")
        arguments[key] = value
    return arguments


def folder_of(name: str) -> Path:
    """Return the folder of a kernelspec of ours, which holds the Dockerfile of its image."""
    manager = KernelSpecManager()
    with contextlib.suppress(NoSuchKernel, ValueError):
        return Path(manager.get_kernel_spec(f"{PREFIX}{name}").resource_dir)
    ours = [spec for spec in manager.find_kernel_specs() if spec.startswith(PREFIX)]
    known = ", ".join(sorted(spec.removeprefix(PREFIX) for spec in ours)) or "none"
    raise NotFound(f"There is no kernelspec {PREFIX}{name} to build an image for; known: {known}.")


def image_rows(found: ImageList) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            one.reference,
            one.runtime,
            size_for_people(one.size_bytes) if one.size_bytes else "",
            ", ".join(one.agents),
            ", ".join(one.pullable_by),
        )
        for one in found.root
    ]


def how_to_use(built: Image) -> str:
    kernelspec = f"{PREFIX}{built.name}"
    return (
        f"\n{built.reference} is ready ({size_for_people(built.size_bytes)}).\n"
        f"Kernels of {kernelspec} start from it: choose it in JupyterLab's launcher, or run\n"
        f"  jupyter execute --kernel_name={kernelspec} notebook.ipynb"
    )
