"""What ``vfolder`` commands show, how they find a folder, and that they work with no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir

from backendai_jupyter.cli.main import main
from backendai_jupyter.cli.vfolder import folder_facts, folder_rows, host_rows, id_of
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.web.vfolder_models import Usage, VFolder, VFolderHost, VFolderHostList

ID = "a0ef1c94-f85c-406d-9b7a-dfd88d5208d4"


def folder(name: str, id: str = ID, *, trashed_at: float | None = None) -> VFolder:
    status = VFolderStatus.READY if trashed_at is None else VFolderStatus.DELETE_PENDING
    usage = Usage(files=2, size_bytes=1024, disk_bytes=4096)
    return VFolder(
        id=id,
        name=name,
        owner="u",
        host="local",
        permission=Permission.READ_WRITE,
        status=status,
        created_at=1.0,
        trashed_at=trashed_at,
        usage=usage,
    )


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it printed; the error if it is to fail."""
    with pytest.raises(SystemExit) as caught:
        main(["vfolder", *words])
    printed = capsys.readouterr()
    assert int(caught.value.code or 0) == code, printed.err
    return printed.err if code else printed.out


@pytest.fixture(autouse=True)
def _in_a_small_place(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = Path(jupyter_config_dir()) / "jupyter_server_config.py"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(f"c.BackendAI.runtime_dir = {str(short_tmp_path / 'r')!r}\n")
    monkeypatch.chdir(short_tmp_path)


def test_a_row_says_what_a_folder_holds() -> None:
    [row] = folder_rows([folder("data")])
    assert row == ("data", "local", "rw", "1 KiB", "2", "ready", ID[:8])
    [row] = folder_rows([folder("old", trashed_at=1.0).model_copy(update={"usage": None})])
    assert row == ("old", "local", "rw", "", "", "in the trash", ID[:8])


def test_the_facts_of_a_folder_say_since_when_it_is_in_the_trash() -> None:
    facts = dict(folder_facts(folder("old", trashed_at=0.0)))
    assert facts["in the trash since"].startswith(("1970-01-01", "1969-12-31"))
    assert "in the trash since" not in dict(folder_facts(folder("data")))


def test_a_host_that_does_not_answer_is_said_to_be_so() -> None:
    hosts = [
        VFolderHost(name="a", path="/a", is_default=True, total_bytes=2048, free_bytes=1024),
        VFolderHost(name="b", path="/b", is_default=False, total_bytes=None, free_bytes=None),
    ]
    assert host_rows(VFolderHostList(hosts)) == [
        ("a (default)", "1 KiB", "2 KiB", "/a"),
        ("b", "does not answer", "", "/b"),
    ]


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        pytest.param("data", "aa1", id="by name"),
        pytest.param("bb", "bb2", id="by the beginning of its id"),
        pytest.param("twice", "twice", id="two of one name"),
        pytest.param("c", "c", id="two of one beginning"),
        pytest.param("none", "none", id="none"),
    ],
)
def test_a_folder_is_found_by_its_name_or_the_beginning_of_its_id(ref: str, found: str) -> None:
    folders = [
        folder("data", "aa1"),
        folder("else", "bb2"),
        folder("twice", "cc3"),
        folder("twice", "cd4"),
    ]
    assert id_of(folders, ref) == found


def test_merely_looking_makes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "ls") == "No folder.\n"
    assert run(capsys, "hosts") == "No host is in use yet.\n"
    assert not Path(jupyter_data_dir(), "backendai").exists()


def test_a_folder_lives_and_ends_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(run(capsys, "create", "Bär", "--read-only", "--json"))
    assert (made["name"], made["permission"]) == ("Bär", "ro")
    assert "rw now" in run(capsys, "permission", "Bär", "rw")
    assert run(capsys, "rename", "Bär", "bear") == "Bär is bear now.\n"
    assert "in the trash" in run(capsys, "rm", "bear")
    assert "bear" not in run(capsys, "ls")
    assert [one["name"] for one in json.loads(run(capsys, "ls", "--trash", "--json"))] == ["bear"]
    assert "in the trash" in run(capsys, "info", made["id"][:8])
    assert run(capsys, "restore", "bear", "--as", "cub") == "cub is back.\n"
    run(capsys, "rm", "cub")
    assert run(capsys, "purge", "cub", "--yes") == "Nothing is left of cub.\n"
    assert [one["name"] for one in json.loads(run(capsys, "ls", "--all", "--json"))] == ["data"]


def test_a_mistyped_name_removes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "create", "keep")
    assert "no folder 'kep'" in run(capsys, "rm", "keep", "kep", code=1)
    assert "keep" in run(capsys, "ls")


def test_nothing_is_purged_unless_somebody_says_yes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short_tmp_path: Path
) -> None:
    run(capsys, "create", "keep")
    run(capsys, "rm", "keep")
    answer = short_tmp_path / "answer"
    answer.write_text("n\n")
    with answer.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert "Aborted" in run(capsys, "purge", "keep", code=1)
    assert "keep" in run(capsys, "ls", "--trash")


def test_a_file_of_this_machine_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], short_tmp_path: Path
) -> None:
    file = short_tmp_path / "file"
    file.write_text("abc")
    run(capsys, "create", "box")
    assert run(capsys, "upload", str(file), "box") == "1 file, 3 bytes.\n"
    said = run(capsys, "download", "box:file", str(short_tmp_path / "no" / "file"), code=1)
    assert (
        said
        == f"jupyter backendai: {short_tmp_path}/no/.file.partial: No such file or directory.\n"
    )
