"""Training runs: what lies in their state, and several processes."""

import os
import subprocess
import sys
from pathlib import Path

from torch import Tensor, equal

from holdfast.runs.folder import Run
from tests.helpers.waiting import GUARD


def weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's state."""
    return Run(folder).load_state().tensors


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Equal to the last bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if not equal(a[name], b[name])]
    assert not different


def script(file: Path, code: str) -> Path:
    """A file of Python whose code can import the tests."""
    root = str(Path(__file__).parents[2])
    file.write_text(f"import sys\nsys.path.insert(0, {root!r})\n{code}")
    return file


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Python in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=GUARD, check=False
    )
