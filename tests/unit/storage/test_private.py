"""A secret of ours is made once, whole, and for nobody else to read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backendai_jupyter.storage.private import lasting_secret


def test_a_lasting_secret_is_the_same_for_all_who_make_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: lasting_secret(path).read_text(), range(8)))
    assert {len(made[0]) >= 48, len(set(made)) == 1} == {True}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
