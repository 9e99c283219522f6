"""The ``backendai`` object: layers, and refusals that name the field."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.options import MountOption, Options, merge
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.errors import InvalidInput


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        pytest.param("big", "backendai", id="no object"),
        pytest.param({"cpu": 2}, "backendai.cpu", id="unknown field"),
        pytest.param({"resources": {"gpus": 2}}, "backendai.resources.gpus", id="unknown slot"),
        pytest.param({"resources": None}, "backendai.resources", id="null resources"),
        pytest.param({"preset": 3}, "backendai.preset", id="preset is no string"),
        pytest.param({"cluster_size": "2"}, "backendai.cluster_size", id="size is a string"),
        pytest.param({"mounts": "data"}, "backendai.mounts", id="mounts is no list"),
        pytest.param({"mounts": ["../etc"]}, "backendai.mounts", id="mount escapes"),
        pytest.param({"mounts": [""]}, "backendai.mounts", id="mount has no name"),
        pytest.param({"mounts": [":x"]}, "backendai.mounts", id="mount is only an alias"),
        pytest.param({"mounts": [1]}, "backendai.mounts", id="mount is a number"),
        pytest.param({"mounts": [["a"]]}, "backendai.mounts", id="mount is a list"),
        pytest.param({"mounts": ["a:b:ro:x"]}, "backendai.mounts", id="mount of four parts"),
        pytest.param({"mounts": ["a:b/c"]}, "backendai.mounts.alias", id="alias escapes"),
        pytest.param({"mounts": ["a:.ssh"]}, "backendai.mounts.alias", id="alias is reserved"),
        pytest.param({"mounts": ["a:b:wo"]}, "backendai.mounts.permission", id="no permission"),
        pytest.param({"mounts": [{"name": 1}]}, "backendai.mounts", id="name is a number"),
        pytest.param({"mounts": [{"alias": "b"}]}, "backendai.mounts", id="name is missing"),
        pytest.param(
            {"mounts": [{"name": "a", "alias": 1}]}, "backendai.mounts.alias", id="alias: number"
        ),
        pytest.param(
            {"mounts": [{"name": "a", "alias": False}]}, "backendai.mounts.alias", id="alias: bool"
        ),
        pytest.param(
            {"mounts": [{"name": "a", "permission": 1}]},
            "backendai.mounts.permission",
            id="permission: number",
        ),
        pytest.param(
            {"mounts": [{"name": "a", "permission": ["ro"]}]},
            "backendai.mounts.permission",
            id="permission: list",
        ),
        pytest.param(
            {"mounts": [{"name": "a", "mode": "ro"}]}, "backendai.mounts.mode", id="unknown key"
        ),
        pytest.param({"priority": 101}, "backendai.priority", id="priority too high"),
        pytest.param({"priority": -1}, "backendai.priority", id="priority below 0"),
        pytest.param({"priority": "10"}, "backendai.priority", id="priority is a string"),
        pytest.param({"priority": True}, "backendai.priority", id="priority is a boolean"),
        pytest.param({"shm": "much"}, "backendai.shm", id="no size of shared memory"),
        pytest.param({"shm": 0}, "backendai.shm", id="no shared memory"),
        pytest.param({"depends_on": "a"}, "backendai.depends_on", id="parents are no list"),
        pytest.param({"depends_on": [1]}, "backendai.depends_on", id="a parent is a number"),
        pytest.param({"depends_on": [" "]}, "backendai.depends_on", id="a parent has no name"),
        pytest.param({"depends_on": ["a"] * 33}, "backendai.depends_on", id="too many parents"),
        pytest.param({"not_before": "soon"}, "backendai.not_before", id="no time"),
        pytest.param({"not_before": 1.5}, "backendai.not_before", id="time is a number"),
        pytest.param(
            {"not_before": "2026-11-28T06:00:00"}, "backendai.not_before", id="time without zone"
        ),
        pytest.param({"env": {"A B": "x"}}, "backendai.env.A B", id="bad variable"),
        pytest.param({"env": {"A": 1}}, "backendai.env.A", id="value is no string"),
        pytest.param(
            {"env": {"BACKENDAI_KERNEL_ID": "x"}}, "backendai.env.BACKENDAI_KERNEL_ID", id="ours"
        ),
    ],
)
def test_malformed_options_name_the_field(raw: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Options.parse(raw)
    assert caught.value.field == field


def test_later_layers_win_slot_by_slot_and_variable_by_variable() -> None:
    metadata = Options.parse({"resources": {"cpu": 2, "mem": "2g"}, "env": {"A": "1", "B": "1"}})
    explicit = Options.parse({"resources": {"mem": "4g"}, "env": {"B": "2"}, "preset": "small"})
    merged = merge([metadata, explicit])
    assert merged.resources == Slots.parse({"cpu": 2, "mem": "4g"})
    assert merged.env == {"A": "1", "B": "2"}
    assert merged.preset == "small"


def test_priority_and_time_are_read_and_the_last_layer_wins() -> None:
    first = Options.parse({"priority": 50, "not_before": "1970-01-01T09:00:10+09:00"})
    assert first.not_before is not None
    assert (first.priority, first.not_before.timestamp()) == (50, 10.0)
    merged = merge([first, Options.parse({"priority": 0})])
    assert (merged.priority, merged.not_before) == (0, first.not_before)


@pytest.mark.parametrize(("text", "field"), [("", None), ("7", None), ("high", "PRIORITY")])
def test_a_priority_may_come_from_the_environment(text: str, field: str | None) -> None:
    environ = {"BACKENDAI_PRIORITY": text}
    if field is None:
        assert Options.from_environment(environ).priority == (int(text) if text else None)
        return
    with pytest.raises(InvalidInput) as caught:
        Options.from_environment(environ)
    assert caught.value.field == f"BACKENDAI_{field}"


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        ("a", MountOption("a")),
        ("a:b", MountOption("a", "b")),
        ("a:b:ro", MountOption("a", "b", readonly=True)),
        ("a::ro", MountOption("a", readonly=True)),
        ("a::rw", MountOption("a")),
        ("a:", MountOption("a")),
        ({"name": "a"}, MountOption("a")),
        ({"name": "a", "alias": None, "permission": None}, MountOption("a")),
        (
            {"name": "a", "alias": "b", "permission": "ro"},
            MountOption("a", "b", readonly=True),
        ),
        ({"name": "a", "permission": "rw"}, MountOption("a")),
    ],
    ids=str,
)
def test_a_mount_is_a_name_with_an_alias_and_a_permission(raw: object, meant: MountOption) -> None:
    assert Options.parse({"mounts": [raw]}).mounts == [meant]


@pytest.mark.parametrize(
    "text", ["a, b:c:ro", '["a", {"name": "b", "alias": "c", "permission": "ro"}]']
)
def test_the_environment_spells_mounts_in_two_ways(text: str) -> None:
    options = Options.from_environment({"BACKENDAI_MOUNTS": text})
    assert options.mounts == [MountOption("a"), MountOption("b", "c", readonly=True)]


def test_an_empty_list_of_mounts_means_none_and_no_list_means_all() -> None:
    data = Options.parse({"mounts": ["data"]})
    assert merge([data, Options.parse({})]).mounts == [MountOption("data")]
    assert merge([Options.parse({"mounts": ["data"]}), Options.parse({"mounts": []})]).mounts == []


@pytest.mark.parametrize("text", ["cpu=2, mem=4g", '{"cpu": 2, "mem": "4g"}'])
def test_the_environment_spells_resources_in_two_ways(text: str) -> None:
    options = Options.from_environment({"BACKENDAI_RESOURCES": text, "HOME": "/"})
    assert options.resources == Slots.parse({"cpu": 2, "mem": "4g"})


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"BACKENDAI_RESOURCES": "cpu"}, "BACKENDAI_RESOURCES"),
        ({"BACKENDAI_RESOURCES": "{"}, "BACKENDAI_RESOURCES"),
        ({"BACKENDAI_RESOURCES": "cpu=x"}, "BACKENDAI_RESOURCES.cpu"),
        ({"BACKENDAI_MOUNTS": "a/b"}, "BACKENDAI_MOUNTS"),
        ({"BACKENDAI_MOUNTS": "a,,b"}, "BACKENDAI_MOUNTS"),
        ({"BACKENDAI_MOUNTS": "a:b:x"}, "BACKENDAI_MOUNTS.permission"),
        ({"BACKENDAI_MOUNTS": '[{"title": "a"}]'}, "BACKENDAI_MOUNTS.title"),
        ({"BACKENDAI_MOUNTS": '{"name": "a"}'}, "BACKENDAI_MOUNTS"),
    ],
)
def test_a_malformed_variable_is_named(environ: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Options.from_environment(environ)
    assert caught.value.field == field


def test_variables_that_are_set_inside_kernels_ask_for_nothing() -> None:
    environ = {"BACKENDAI_CLUSTER_SIZE": "3", "BACKENDAI_SESSION_ID": "x"}
    assert Options.from_environment(environ) == Options()


def test_parents_and_shared_memory_are_those_of_the_strongest_layer() -> None:
    weak = Options.parse({"depends_on": ["a", "b", "a"], "shm": "256m"})
    assert (weak.depends_on, weak.shm) == (["a", "b"], 256 << 20)
    assert merge([weak, Options()]) == weak
    strong = merge([weak, Options.parse({"depends_on": [], "shm": 1024})])
    assert (strong.depends_on, strong.shm) == ([], 1024)
