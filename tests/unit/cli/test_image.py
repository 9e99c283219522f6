"""What ``image build`` asks for, and where it finds the Dockerfile."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from jupyter_core.paths import jupyter_data_dir

from backendai_jupyter.cli.image import OFFLINE, arguments_of, folder_of, how_to_use, image_rows
from backendai_jupyter.errors import NotFound
from backendai_jupyter.web.image_models import Image, ImageList

BUILT = Image(
    name="python",
    reference="backendai-python:latest",
    runtime="docker",
    digest="sha256:1",
    size_bytes=512 * 1024**2,
    labels={},
    agents=[],
)


@pytest.mark.parametrize(
    ("pairs", "base_image", "offline", "arguments"),
    [
        pytest.param((), None, False, {}, id="nothing"),
        pytest.param(("A=b=c", "D="), None, False, {"A": "b=c", "D": ""}, id="pairs"),
        pytest.param((), "debian:12", False, {"BASE_IMAGE": "debian:12"}, id="base image"),
        pytest.param((), None, True, {"PIP_ARGS": OFFLINE}, id="wheels"),
        pytest.param(("PIP_ARGS=x",), None, True, {"PIP_ARGS": "x"}, id="spelled out"),
    ],
)
def test_arguments_of_a_build(
    pairs: tuple[str, ...], base_image: str | None, offline: bool, arguments: dict[str, str]
) -> None:
    assert arguments_of(pairs, base_image=base_image, offline=offline) == arguments


@pytest.mark.parametrize("pair", ["A", "=b", ""])
def test_a_build_argument_without_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME=VALUE"):
        arguments_of([pair], base_image=None, offline=False)


def test_the_folder_is_that_of_the_kernelspec() -> None:
    folder = Path(jupyter_data_dir()) / "kernels" / "backendai-julia"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["julia"], "display_name": "Julia"}')
    assert folder_of("julia") == folder


@pytest.mark.parametrize("name", ["nope", "../etc", ""])
def test_a_name_without_kernelspec_is_not_found(name: str) -> None:
    with pytest.raises(NotFound, match="no kernelspec backendai-"):
        folder_of(name)


def test_an_image_is_listed_with_its_size() -> None:
    [row] = image_rows(ImageList([BUILT]))
    assert row == ("python", "backendai-python:latest", "docker", "512 MiB", "", "")


def test_a_list_says_where_an_image_is_and_who_fetches_it() -> None:
    where = {"agents": ["a1", "a2"], "pullable_by": ["a3"]}
    [row] = image_rows(ImageList([BUILT.model_copy(update=where)]))
    assert row[-2:] == ("a1, a2", "a3")


def test_a_build_ends_with_how_to_use_it() -> None:
    assert "--kernel_name=backendai-python" in how_to_use(BUILT)
