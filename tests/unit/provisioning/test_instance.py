"""A server's instance: one server at a time, and the former one's kernels are found again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backendai_jupyter.errors import Conflict, Unavailable
from backendai_jupyter.provisioning.instance import Facts, Instance, new_cluster_id


def facts(path: Path) -> Facts:
    """What a server that starts for the first time would choose."""
    cluster_id = new_cluster_id()
    return Facts(
        cluster_id=cluster_id,
        agent_id="local-here",
        database_url="sqlite://",
        run_root=str(path / "run" / cluster_id[:8]),
        scratch_root=str(path / "data" / "scratch" / cluster_id[:8]),
        docker_url=None,
    )


def test_the_next_server_has_the_cluster_of_the_former_one(tmp_path: Path) -> None:
    former = Instance.take_over(tmp_path / "data", facts(tmp_path))
    former.release()
    after = Instance.take_over(tmp_path / "data", replace(facts(tmp_path), docker_url="x"))
    assert after.facts == replace(former.facts, docker_url="x")


def test_of_two_servers_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    Instance.take_over(tmp_path / "data", facts(tmp_path))
    with pytest.raises(Conflict, match="Another Jupyter Server"):
        Instance.take_over(tmp_path / "data", facts(tmp_path))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def of_another_kind(path: Path) -> None:
    path.write_bytes(b"\x80\xff[]")


@pytest.mark.parametrize("damage", [cut_short, of_another_kind, Path.unlink])
@pytest.mark.parametrize("name", ["facts.json", "facts.copy.json"])
def test_one_damaged_file_costs_nothing_and_is_mended(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    former = Instance.take_over(tmp_path / "data", facts(tmp_path))
    former.release()
    damage(tmp_path / "data" / "server" / name)
    after = Instance.take_over(tmp_path / "data", facts(tmp_path))
    assert after.facts == former.facts
    files = sorted((tmp_path / "data" / "server").glob("facts*"))
    assert [path.read_text() for path in files] == [files[0].read_text()] * 2
    assert "local-here" in files[0].read_text()


def test_where_nothing_says_what_was_before_nothing_is_overwritten(tmp_path: Path) -> None:
    Instance.take_over(tmp_path / "data", facts(tmp_path)).release()
    files = list((tmp_path / "data" / "server").glob("facts*"))
    for path in files:
        path.write_text("{}")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"facts\.json cannot be read"):
            Instance.take_over(tmp_path / "data", facts(tmp_path))
    assert [path.read_text() for path in files] == ["{}", "{}"]


def test_what_is_in_the_lock_file_only_names_a_process(tmp_path: Path) -> None:
    former = Instance.take_over(tmp_path / "data", facts(tmp_path))
    (tmp_path / "data" / "server" / "lock").write_bytes(b"\xff\x00 not a number")
    with pytest.raises(Conflict, match="Another Jupyter Server"):
        Instance.take_over(tmp_path / "data", facts(tmp_path))
    former.release()
    Instance.take_over(tmp_path / "data", facts(tmp_path))
