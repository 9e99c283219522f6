"""What is written down of kernels goes with them, also what was never written to its end."""

from __future__ import annotations

from pathlib import Path

from backendai_jupyter.agent.checkpoints import Checkpoint, Checkpoints
from backendai_jupyter.domain.wire import Image


def test_nothing_is_left_of_a_checkpoint_that_a_full_disk_cut_off(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    image = Image(name="python", reference="python", runtime="docker")
    checkpoints.write(Checkpoint(kernel_id="k", generation=1, image=image, key="secret"))
    (tmp_path / "k.partial").write_text('{"kernel_id": "k", "key": "sec')
    assert [found.kernel_id for found in checkpoints.all()] == ["k"]
    checkpoints.remove("k")
    checkpoints.remove("k")
    assert list(tmp_path.iterdir()) == []
