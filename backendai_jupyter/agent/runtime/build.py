"""Build the image of a kernelspec from its folder."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.runtime.docker_engine import (
    LABEL_IMAGE_NAME,
    LABEL_KERNELSPEC,
    connect,
    image_of,
    in_words,
)
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import RuntimeFailed

BUILD_TIMEOUT_S = 3600.0  # without a line of output
_TAIL_LINES = 15
_CHATTER = (" ---> ", "Removing intermediate container ")  # of the builder, about itself


async def build_image(
    name: str,
    context_dir: Path,
    *,
    tag: str,
    build_args: Mapping[str, str],
    wheels: Path | None,
    url: str | None,
    on_line: Callable[[str], None],
    labels: Mapping[str, str] | None = None,
) -> Image:
    """Build ``context_dir/Dockerfile`` and return the image, which is then tagged ``tag``.

    ``wheels`` is shown to the build as a folder of that name beside the Dockerfile;
    ``on_line`` gets each line of output.  Raises ``RuntimeFailed`` with the last lines of
    the step that failed, or if the image does not say that it is the one called ``name``.
    """
    if not (context_dir / "Dockerfile").is_file():
        raise RuntimeFailed(f"There is no Dockerfile in {context_dir}, so {name!r} has no image.")
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        loop.call_soon_threadsafe(on_line, line)

    def work() -> Image:
        with tempfile.TemporaryDirectory(prefix="backendai-build-") as folder:
            context = Path(folder) / "context"
            shutil.copytree(context_dir, context)
            if wheels is not None:
                shutil.copytree(wheels, context / "wheels", dirs_exist_ok=True)
            return _build(name, context, tag, dict(build_args), dict(labels or {}), url, tell)

    thread = ThreadPoolExecutor(1, thread_name_prefix="docker-build")
    try:
        return await loop.run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)  # cancelled, it must not hold the event loop


def _build(
    name: str,
    context: Path,
    tag: str,
    build_args: dict[str, str],
    labels: dict[str, str],
    url: str | None,
    tell: Callable[[str], None],
) -> Image:
    client = connect(url, timeout_s=BUILD_TIMEOUT_S)
    try:
        with in_words(f"build {tag!r}", url):
            messages = client.build(
                path=str(context),
                tag=tag,
                buildargs=build_args,
                labels=labels,
                rm=True,
                forcerm=True,
                decode=True,
            )
            _follow(messages, name, tell)
            built = client.inspect_image(tag)
    finally:
        client.close()
    image_labels = built["Config"].get("Labels") or {}
    if image_labels.get(LABEL_KERNELSPEC) != "1" or image_labels.get(LABEL_IMAGE_NAME) != name:
        raise RuntimeFailed(
            f"{tag!r} is built, but its Dockerfile does not label it as a kernel image: "
            f'expected LABEL {LABEL_KERNELSPEC}="1" {LABEL_IMAGE_NAME}="{name}".'
        )
    return image_of(name, tag, built, image_labels)


def _follow(messages: Any, name: str, tell: Callable[[str], None]) -> None:
    """Pass the build's output on, line by line, until it ends."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    error = ""
    for message in messages:  # to the end also after an error: that frees the connection
        error = error or message.get("error", "").strip()
        for line in _lines(message):
            if line.startswith("Step "):
                tail.clear()
            if not line.startswith(_CHATTER):
                tail.append(line)
            tell(line)
    if error:
        said = "\n".join(f"  {line}" for line in tail)
        raise RuntimeFailed(
            f"The image {name!r} could not be built: {error}\n"
            f"The failing step's last lines:\n{said}"
        )


def _lines(message: Mapping[str, Any]) -> list[str]:
    text = message.get("stream") or message.get("status") or ""
    return [line for line in str(text).splitlines() if line.strip()]
