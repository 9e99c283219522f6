"""Read the devices that an administrator has listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath

from backendai_jupyter.domain.devices import DEVICE_ID, Device, DeviceFile
from backendai_jupyter.domain.resources import Unit, parse_size, parse_slot, unit_of
from backendai_jupyter.errors import InvalidInput

_FIELDS = ("id", "kind", "name", "memory", "shares", "files", "profile")


def read_devices(raw: Sequence[Mapping[str, object]], *, field: str) -> tuple[Device, ...]:
    """Raise ``InvalidInput`` naming the field, such as ``BackendAIAgent.devices[1].memory``."""
    devices = tuple(_device(one, f"{field}[{n}]") for n, one in enumerate(raw))
    seen: set[str] = set()
    for n, device in enumerate(devices):
        if device.id in seen:
            raise InvalidInput(f"{field}[{n}].id", f"{device.id!r} is there twice")
        seen.add(device.id)
    return devices


def _device(raw: Mapping[str, object], field: str) -> Device:
    for name in raw:
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise InvalidInput(f"{field}.{name}", f"there is no such field; known are {known}")
    device_id = raw.get("id")
    if not isinstance(device_id, str) or not DEVICE_ID.fullmatch(device_id):
        problem = "is needed: letters, digits, '.', '_' and '-', at most 64"
        raise InvalidInput(f"{field}.id", problem)
    kind = raw.get("kind", "cuda")
    if not isinstance(kind, str) or unit_of(f"{kind}.device") is None:
        problem = f"{kind!r} is no kind such as cuda, rocm, tpu: small letters, digits and '-'"
        raise InvalidInput(f"{field}.kind", problem)
    return Device(
        id=device_id,
        kind=kind,
        name=str(raw.get("name", "")),
        memory_bytes=_memory(raw.get("memory", 0), f"{field}.memory"),
        shares=_shares(raw.get("shares", 1), f"{field}.shares"),
        files=_files(raw.get("files", ()), f"{field}.files"),
        profile=_profile(kind, raw.get("profile", ""), f"{field}.profile"),
    )


def _profile(kind: str, raw: object, field: str) -> str:
    if raw != "" and unit_of(f"{kind}.{raw}") is not Unit.UNIQUE:
        raise InvalidInput(field, f"{raw!r} is no part such as 'mig-1g.5gb'")
    return str(raw)


def _memory(raw: object, field: str) -> int:
    try:
        return parse_size(raw)
    except ValueError:
        raise InvalidInput(field, f"{raw!r} is not a size; write e.g. '24g'") from None


def _shares(raw: object, field: str) -> Decimal:
    amount = parse_slot("cuda.shares", raw, field=field)
    if not amount:
        raise InvalidInput(field, "must be more than 0")
    return amount


def _files(raw: object, field: str) -> tuple[DeviceFile, ...]:
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise InvalidInput(field, "expected a list such as ['/dev/dri/renderD128']")
    return tuple(_file(one, f"{field}[{n}]") for n, one in enumerate(raw))


def _file(raw: object, field: str) -> DeviceFile:
    """Read ``/dev/x``, or ``/dev/x:/dev/y`` for one that kernels see as ``/dev/y``."""
    host, _, inside = str(raw).partition(":")
    for path in (host, inside or host):
        parts = PurePosixPath(path).parts
        if parts[:1] != ("/",) or ".." in parts:
            raise InvalidInput(field, f"{raw!r} must be an absolute path, or two with ':' between")
    shown = PurePosixPath(inside or host).parts
    if shown[:2] != ("/", "dev") or len(shown) == 2:
        raise InvalidInput(field, f"{raw!r} must be below /dev as kernels see it")
    return DeviceFile(host, inside or host)
