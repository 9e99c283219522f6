"""``jupyter backendai run``: what a command line means, what is said, and a server that is away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backendai_jupyter.cli.batch_words import facts, sentence
from backendai_jupyter.cli.places import Places
from backendai_jupyter.cli.run import Followed, follow, interrupted, options, read_value
from backendai_jupyter.domain.batch import Batch, CellProgress
from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.web.dry_run import NewSession
from backendai_jupyter.web.models import SessionDetail, detail_of
from tests.records import make_session

BATCH = Batch(notebook="/home/work/data/nb.ipynb", output="/home/work/data/out.ipynb", retries=1)
FAR = CellProgress(cell=2, cells=3, since=2.0, begun=1.0)
BAD = Exit(
    reason=ExitReason.EXITED, code=1, message="It failed in cell 2 of 3: no luck", progress=FAR
)


def batch_session(status: Status, *, reason: str = "", ending: Exit | None = None) -> SessionDetail:
    return detail_of(row(status, reason=reason, ending=ending), ())


def row(status: Status, *, reason: str = "", ending: Exit | None = None) -> ComputeSession:
    made = make_session("s", status=status)
    kernel = replace(made.main, exit=ending)
    return replace(made, batch=BATCH, status_reason=reason, kernels=(kernel,))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    return Places({"data": Path(os.path.realpath(tmp_path / "data"))})


def test_a_file_inside_a_folder_is_used_where_it_is(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.of_notebook(str(tmp_path / "data" / "deep" / "nb.ipynb")) == "data/deep/nb.ipynb"
    assert places.of_notebook("data/nb.ipynb") == "data/nb.ipynb"
    monkeypatch.chdir(tmp_path / "data" / "deep")
    assert places.of_notebook("nb.ipynb") == "data/deep/nb.ipynb"
    assert places.of_output("out.ipynb", beside="data/deep/nb.ipynb") == "data/deep/out.ipynb"


def test_a_mere_name_of_an_output_is_beside_the_notebook(places: Places) -> None:
    assert places.of_output("out.ipynb", beside="data/deep/nb.ipynb") == "data/deep/out.ipynb"
    assert places.of_output("data/out.ipynb", beside="data/deep/nb.ipynb") == "data/out.ipynb"


def test_what_lies_in_no_folder_is_refused_with_what_to_do(places: Places, tmp_path: Path) -> None:
    (tmp_path / "nb.ipynb").touch()
    with pytest.raises(InvalidInput, match=r"it lies in no folder.*--upload FOLDER"):
        places.of_notebook(str(tmp_path / "nb.ipynb"))
    with pytest.raises(InvalidInput, match=r"there is no such file, and"):
        places.of_notebook("no-such-folder/nb.ipynb")
    with pytest.raises(InvalidInput, match="--out"):
        places.of_output("elsewhere/out.ipynb", beside="data/nb.ipynb")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("3", 3), ("True", True), ("None", None), ("a=b", "a=b"), ("nan", "nan")],
)
def test_parameters_are_read_as_papermill_reads_them(text: str, value: object) -> None:
    assert read_value(text) == value


def test_options_make_the_object_that_every_session_is_asked_for_with() -> None:
    asked = {
        "cpu": "4",
        "mem": "8g",
        "more": ("cuda.device=1",),
        "preset": None,
        "cluster_size": None,
        "group": "gpu",
        "priority": 0,
        "not_before": None,
        "mounts": (),
        "env": ("A=b=c",),
    }
    assert options(asked) == {
        "resources": {"cuda.device": "1", "cpu": "4", "mem": "8g"},
        "resource_group": "gpu",
        "priority": 0,
        "env": {"A": "b=c"},
    }
    with pytest.raises(InvalidInput, match="--env"):
        options({**asked, "env": ("A",)})


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (batch_session(Status.PENDING, reason="No room."), "s is PENDING. No room."),
        (batch_session(Status.RUNNING), "s is RUNNING."),
        (
            batch_session(Status.TERMINATED, ending=BAD),
            "s is TERMINATED, failed: It failed in cell 2 of 3: no luck "
            "See /home/work/data/out.ipynb.",
        ),
        (
            batch_session(Status.CANCELLED, reason="It is enough."),
            "s is CANCELLED, cancelled: It is enough.",
        ),
    ],
)
def test_one_line_says_how_far_it_is(session: SessionDetail, said: str) -> None:
    assert sentence(session) == said


def test_what_is_shown_of_a_batch_and_nothing_of_another_session() -> None:
    shown = dict(facts(batch_session(Status.TERMINATED, ending=BAD)))
    assert shown["runs"] == "/home/work/data/nb.ipynb"
    assert (shown["attempt"], shown["cell"], shown["end"]) == ("1 of 2", "2 of 3", "failed")
    assert shown["time limit"] == ""
    assert dict(facts(detail_of(make_session("s"), ()))) == {}


class ServerThatIsAwayOnce:
    """Answers ``RUNNING``, is away, then says that the session is over."""

    outlives = True

    def __init__(self) -> None:
        self._answers = [Status.RUNNING, None, Status.TERMINATED]

    async def start(self, new: NewSession) -> SessionDetail:
        return batch_session(Status.PENDING)

    async def session(self, session_id: str) -> SessionDetail:
        status = self._answers.pop(0)
        if status is None:
            raise Unavailable("The server does not answer.")
        return batch_session(status, ending=BAD if status is Status.TERMINATED else None)

    async def terminate(self, session_id: str) -> None: ...


async def test_a_server_that_is_away_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    followed = Followed(as_json=False)
    last = await follow(ServerThatIsAwayOnce(), "s", followed)
    assert last.status is Status.TERMINATED
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "s is RUNNING."
    assert said[1] == "The server does not answer. The session goes on; waiting for the server."
    assert said[2].startswith("s is TERMINATED, failed")


@pytest.mark.parametrize(("keeps_running", "said"), [(True, "s goes on; "), (False, "")])
def test_who_is_interrupted_and_cannot_be_asked_lets_it_go_on(
    capsys: pytest.CaptureFixture[str], keeps_running: bool, said: str
) -> None:
    followed = Followed(as_json=True)
    followed.keeps_running = keeps_running
    followed.tell(batch_session(Status.RUNNING))
    interrupted(followed)
    assert capsys.readouterr().err.startswith(said)
