"""The answers of the REST API, made from records."""

from __future__ import annotations

from dataclasses import replace

from backendai_jupyter.domain.records import Agent, Preset, Step, User
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import AgentReport, Exit, ExitReason, Image, Mount
from backendai_jupyter.manager.board import Notice
from backendai_jupyter.web.image_models import images_of
from backendai_jupyter.web.models import (
    SessionDetail,
    agents_of,
    detail_of,
    me_of,
    presets_of,
    session_of,
    with_progress,
)
from tests.records import make_kernel, make_session

GIB = 1024**3
NOTHING = Slots()


def agent(agent_id: str, used: Slots) -> Agent:
    capacity = Slots({"cpu": 4, "mem": 8 * GIB})
    return Agent(agent_id, "1", capacity, used, ("python",), ("no limits here",), 5.0)


def report(agent_id: str, *images: Image) -> AgentReport:
    capacity = Slots({"cpu": 4, "mem": 8 * GIB})
    return AgentReport(agent_id=agent_id, revision=1, version="1", capacity=capacity, images=images)


def test_a_session_says_what_its_kernel_has_and_why_it_ended() -> None:
    ended = replace(
        make_kernel("k", status=Status.ERROR, agent_id="a1"),
        mounts=(Mount(source="/host/data", target="/home/work/data", readonly=True),),
        exit=Exit(reason=ExitReason.OUT_OF_MEMORY, message="It was too much.", code=137),
    )
    answer = session_of(replace(make_session(created_at=3.5), kernels=(ended,))).model_dump(
        mode="json"
    )
    assert (answer["created_at"], answer["ended_at"], answer["owner"]) == (3.5, None, "u")
    assert answer["kernels"][0] == {
        "id": "k",
        "role": "main",
        "hostname": "main1",
        "status": "ERROR",
        "status_reason": "",
        "status_since": 0.0,
        "step": "",
        "agent_id": "a1",
        "image": "python",
        "slots": {"cpu": "1", "mem": str(GIB)},
        "mounts": [{"target": "/home/work/data", "readonly": True}],
        "workdir": "/home/work",
        "generation": 1,
        "exit": {"reason": "oom-killed", "message": "It was too much.", "code": 137, "cause": ""},
        "pull": None,
        "statistics": None,
        "statistics_reason": "",
    }


def test_no_answer_holds_the_environment_or_the_log_of_a_kernel() -> None:
    ending = Exit(reason=ExitReason.EXITED, message="It ended.", log_tail="secret in a log")
    kernel = replace(make_kernel(), env={"TOKEN": "secret in a variable"}, exit=ending)
    answer = session_of(replace(make_session(), kernels=(kernel,)))
    assert "secret" not in answer.model_dump_json()


def test_a_detail_has_the_steps_in_their_order() -> None:
    steps = (
        Step("s", None, Status.PENDING, "", "u", 1.0),
        Step("s", Status.PENDING, Status.SCHEDULED, "placed on a1", "scheduler", 2.0),
    )
    answer = detail_of(make_session(), steps)
    assert isinstance(answer, SessionDetail)
    assert [(step.before, step.after, step.by) for step in answer.history] == [
        (None, Status.PENDING, "u"),
        (Status.PENDING, Status.SCHEDULED, "scheduler"),
    ]


def test_an_agent_without_a_report_is_lost() -> None:
    answer = agents_of([agent("a1", NOTHING), agent("a2", NOTHING)], {"a2": report("a2")})
    assert [(one.id, one.status) for one in answer.root] == [("a1", "lost"), ("a2", "alive")]


def test_an_agent_that_gives_nothing_says_zero_of_every_slot() -> None:
    [answer] = agents_of([agent("a1", NOTHING)], {}).root
    assert answer.used == {"cpu": "0", "mem": "0"}
    assert answer.free == answer.capacity


def test_what_is_used_of_an_agent_is_not_free() -> None:
    [answer] = agents_of([agent("a1", Slots({"cpu": 4, "mem": GIB}))], {}).root
    assert answer.used == {"cpu": "4", "mem": str(GIB)}
    assert answer.free == {"cpu": "0", "mem": str(7 * GIB)}


def test_an_image_that_two_agents_have_is_listed_once() -> None:
    python = Image(name="python", reference="p:1", runtime="docker", digest="sha256:1")
    newer = Image(name="python", reference="p:1", runtime="docker", digest="sha256:2")
    images = {"b": python, "a": python, "c": newer}
    answer = images_of({agent_id: report(agent_id, image) for agent_id, image in images.items()})
    assert [(one.digest, one.agents) for one in answer.root] == [
        ("sha256:1", ["a", "b"]),
        ("sha256:2", ["c"]),
    ]


def test_presets_and_users_are_named() -> None:
    [preset] = presets_of([Preset("small", Slots({"cpu": 1}))]).root
    assert (preset.name, preset.slots) == ("small", {"cpu": "1"})
    assert me_of(User("u1", "owner")).model_dump() == {"id": "u1", "name": "owner"}


def test_a_detail_of_a_start_says_what_happens_now() -> None:
    session = make_session(status=Status.CREATING)
    now = Notice("s", Status.CREATING, "Starting its program.", generation=1, step="answer")
    answer = with_progress(detail_of(session, ()), [now])
    assert (answer.kernels[0].step, answer.status_reason) == (
        "answer",
        "Waiting for the first answer of its program.",
    )
    late = Notice("s", Status.SCHEDULED, "", generation=1)
    assert with_progress(detail_of(session, ()), [late]).kernels[0].step == ""
