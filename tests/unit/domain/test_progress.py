"""How long a start may take, as the administrator says it."""

from __future__ import annotations

import pytest
from traitlets import TraitError
from traitlets.config import Config

from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.progress import START_TIMEOUTS, doing
from backendai_jupyter.domain.states import TRANSITIONS, Status
from backendai_jupyter.domain.wire import PullProgress


def settings(limits: object) -> BackendAI:
    return BackendAI(config=Config({"BackendAI": {"start_timeouts": limits}}))


def test_what_is_not_given_stays_as_it_is() -> None:
    limits = settings({"PENDING": 600, "CREATING": 0.5}).start_limits()
    assert limits.of(Status.PENDING) == 600
    assert limits.of(Status.CREATING) == 0.5
    assert limits.of(Status.PULLING) == START_TIMEOUTS[Status.PULLING]
    assert limits.of(Status.RUNNING) == 0


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"CREATNG": 1}, "BackendAI.start_timeouts.CREATNG"),
        ({"RUNNING": 1}, "BackendAI.start_timeouts.RUNNING"),
        ({"PENDING": -1}, "BackendAI.start_timeouts.PENDING"),
        ({"PENDING": "600"}, "BackendAI.start_timeouts.PENDING"),
        ({"PENDING": True}, "BackendAI.start_timeouts.PENDING"),
        ({"PENDING": float("nan")}, "BackendAI.start_timeouts.PENDING"),
    ],
)
def test_what_is_wrong_is_named(limits: object, field: str) -> None:
    with pytest.raises(TraitError, match=field):
        settings(limits).start_limits()


def test_a_pull_says_how_far_it_is() -> None:
    pull = PullProgress(bytes_done=3 << 20, bytes_total=1 << 30, layers_done=1, layers_total=4)
    said = "Fetching its image: 3 MiB of 1 GiB, 1 of 4 layers unpacked."
    assert doing(Status.PULLING, "image", pull) == said
    assert doing(Status.RESTARTING, "image", pull) == said
    assert doing(Status.PULLING, "image", PullProgress()) == "Fetching its image."


def test_there_is_a_sentence_for_everything_that_is_under_way() -> None:
    for status, after in TRANSITIONS.items():
        assert bool(doing(status)) is (bool(after) and status is not Status.RUNNING)
