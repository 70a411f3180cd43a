"""Training runs: what lies in their state, and several processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, equal

from holdfast.runs.folder import Run
from tests.helpers.waiting import GUARD, forked


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


def together(work: Callable[[], object], processes: int = 2) -> None:
    """Work in forks of this process, which find in their environment what torchrun tells its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def one(rank: int) -> None:
        os.environ.update(meeting, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        work()
        os._exit(0)  # the parent's threads, of which a fork has none, are not waited for

    begun = [forked(partial(one, rank)) for rank in range(processes)]
    for process in begun:
        process.join(GUARD)
    assert [process.exitcode for process in begun] == [0] * processes
