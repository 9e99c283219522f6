"""What the images of the tests' private engine are made from: a Debian base, and wheels.

Both stay in the cache folder under a hash of what they are made of, so that a change makes
new ones.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

KERNELSPECS = Path(__file__).parents[1] / "kernelspecs"
BASE_SUITE, BASE_PYTHON = "bookworm", "3.11"
BASE_PACKAGES = (
    "ca-certificates",
    "fonts-dejavu-core",
    "python3",
    "python3-nbclient",
    "python3-venv",
    "r-cran-irkernel",
)
UNNEEDED = ("dev", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")


def ensure_base_tarball(cache: Path) -> Path:
    """Return a root file system that ``docker import`` takes; made within a minute or two."""
    tarball = cache / f"base-{base_key()}.tar"
    if tarball.exists():
        return tarball
    say(f"making a Debian base with {', '.join(BASE_PACKAGES)}")
    root = Path(tempfile.mkdtemp(prefix="bj-base-"))
    partial = tarball.with_suffix(".partial")
    try:
        suite_and_mirror = [BASE_SUITE, str(root), *_mirror()]
        run_command([find_command("debootstrap"), "--variant=minbase", *suite_and_mirror])
        # debootstrap itself cannot resolve the virtual packages that R's depend on; the mirror
        # may be a snapshot of long ago.
        lenient = ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false"]
        chroot = [find_command("chroot"), str(root), "env", "DEBIAN_FRONTEND=noninteractive"]
        apt_get = [*chroot, "apt-get", "-qy", "--no-install-recommends", *lenient]
        run_command([*apt_get, "update"])
        run_command([*apt_get, "install", *BASE_PACKAGES])
        run_command([*apt_get, "clean"])
        excluded = [f"--exclude=./{folder}/*" for folder in UNNEEDED]
        run_command(["tar", "-C", str(root), *excluded, "-cf", str(partial), "."])
        partial.rename(tarball)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return tarball


def ensure_wheels(cache: Path) -> Path:
    """Return a folder with all that the requirements of the python image come to."""
    requirements = KERNELSPECS / "python" / "requirements.txt"
    wheels = cache / f"wheels-{hash_of(BASE_PYTHON, content_of(requirements))}"
    if wheels.exists():
        return wheels
    say("downloading wheels for the python image")
    partial = wheels.with_suffix(".partial")  # what a failed run has left there is used again
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    where = ["--python-version", BASE_PYTHON, "-d", str(partial), "-r", str(requirements)]
    run_command([*pip, *where])
    return partial.rename(wheels)


def base_key() -> str:
    return hash_of(BASE_SUITE, *BASE_PACKAGES)


def _mirror() -> list[str]:
    """Return the mirror of this machine's own packages if it has this suite.

    Without one debootstrap goes to Debian's own.
    """
    targets = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"]
    if shutil.which("apt-get") is None:
        return []
    listed = subprocess.run(targets, capture_output=True, text=True, check=False).stdout
    found = [line.split()[1] for line in listed.splitlines() if line.startswith(f"{BASE_SUITE} ")]
    return found[:1]


def search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # a plain user's lacks them


def has_command(command: str) -> bool:
    return shutil.which(command, path=search_path()) is not None


def find_command(command: str) -> str:
    return shutil.which(command, path=search_path()) or command


def run_command(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout[-4000:]}")


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def content_of(path: Path) -> str:
    return f"{path.name}\0{path.read_text()}"


def say(what: str) -> None:
    sys.stderr.write(f"test engine: {what}\n")
