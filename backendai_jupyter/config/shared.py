"""Settings that a cluster shares: which there are, and what a value of one may be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from traitlets import Bool, TraitError
from traitlets.config import Configurable

from backendai_jupyter.config.agent import BackendAIAgent
from backendai_jupyter.config.manager import BackendAI
from backendai_jupyter.errors import InvalidInput

SECTIONS: Mapping[str, type[Configurable]] = {
    section.__name__: section for section in (BackendAI, BackendAIAgent)
}


def shared_names(section: type[Configurable]) -> list[str]:
    """Return the traits of a section that may be shared: those that can change at any time."""
    return sorted(section.class_trait_names(config=True, shared=True))


def own_names(settings: Configurable) -> set[str]:
    """Return the traits that the process's own configuration gives, which nothing overrides."""
    return set(settings.config.get(type(settings).__name__, {}))


def read_json(text: str, *, field: str) -> Any:
    """Raise ``InvalidInput`` for what is no JSON, and for a name or number with two meanings."""
    try:
        return json.loads(
            text, object_pairs_hook=_once_each, parse_constant=_finite, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidInput(field, f"is no JSON: {error.msg} at {where}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(field, f"is no JSON: {error}") from None


def checked(name: str, value: Any) -> Any:
    """Return ``value`` as the setting ``name`` (``Section.trait``) takes it.

    Raises ``InvalidInput`` naming it where it may not be shared, or may not have this value.
    """
    section_name, _, trait_name = name.partition(".")
    section = SECTIONS.get(section_name)
    trait = section.class_traits(config=True).get(trait_name) if section else None
    if section is None or trait is None:
        raise InvalidInput(name, "there is no such setting")
    if not trait.metadata.get("shared"):
        raise InvalidInput(name, "may not be shared: write it into the node's own configuration")
    if isinstance(value, bool) and not isinstance(trait, Bool):
        raise InvalidInput(name, f"may not be {json.dumps(value)}")  # to Python it is a number
    trial = section()
    try:
        setattr(trial, trait_name, value)
    except TraitError as error:
        raise InvalidInput(name, str(error).removeprefix(f"{name}: ")) from None
    return getattr(trial, trait_name)


def _once_each(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number
