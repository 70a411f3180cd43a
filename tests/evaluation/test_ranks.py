"""Evaluations under torchrun: what several processes find is what one finds, byte by byte."""

import json
import signal
import sys
from pathlib import Path
from subprocess import run as call
from typing import Any

import pytest

from tests.helpers import runs
from tests.helpers.hosts import torchrun_on, two_hosts
from tests.helpers.runs import torchrun
from tests.helpers.tiny import records

SCRIPT = """
import os, signal
from dataclasses import replace
from holdfast.core import gallery
from holdfast.evaluation import evaluate as evaluation
from holdfast.evaluation.protocols import CASCADE, TRIALS
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust import cascade, minimal, smoothed
from holdfast.metrics import retrieval
from holdfast.models import embedding
from holdfast.util import distributed
from tests.helpers.tiny import digits, embedder

folder, deadly, index = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
if os.environ.get("SPREAD"):
    gallery.BLOCK, embedding.ROOM, ask, questions = 16, 0.0, distributed.ask, []
    distributed.ask = lambda *given: questions.append(1) or ask(*given)
cascade.CASCADE = tuple(replace(one, steps=2) for one in (*CASCADE[:3], CASCADE[-1]))
minimal.TRIALS, minimal.HALVINGS, smoothed.STEPS = (replace(TRIALS[0], steps=2, restarts=0),), 2, 2
retrieval._queries_per_block = lambda *_: 3
add, calls = Records.add, [0]


def adding(*given):
    add(*given)
    calls[0] += 1
    if calls[0] == deadly and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)


Records.add = adding
settings = {"steps": 2, "eps": 0.06, "max_queries": 5, "minimal_eps": True}
settings |= {"sigma": 0.1, "draws": 20} if index is None else {"index": index}
settings |= {"batch": 2, "device": "cpu", "quiet": True}
try:
    evaluation.evaluate(embedder(), digits(40), folder=folder, **settings)
    assert not {"SPREAD", "RANK"} <= os.environ.keys() or questions
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""The strict evaluation of a tiny model, with checks, minimal ε and certificates or an index; the second process may be
killed, and no device may have room for the gallery."""
INDEX = "IVF4,SQ8:nprobe=2"
CHANGING = ("cost", "environment")
"""What a result says of its making."""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.script(tmp_path_factory.mktemp("script") / "evaluation.py", SCRIPT)


@pytest.fixture(scope="module")
def alone(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return one_process(script, folder)


def one_process(script: Path, folder: Path, index: str = "") -> Path:
    call([sys.executable, script, folder, "0", index], check=True)
    return folder


def result(folder: Path) -> dict[str, Any]:
    (file,) = folder.rglob("result.json")
    content = json.loads(file.read_text())
    for stage in content["robust R@1"]["stages"]:
        del stage["passes"]  # of images that fill up a block as well
    unattacked = {"of each query": file.with_name("benign.jsonl").read_text()}
    return {name: value for name, value in content.items() if name not in CHANGING} | unattacked


def test_where_one_of_two_dies_three_go_on_and_find_what_one_finds(alone: Path, script: Path, tmp_path: Path) -> None:
    done = torchrun(str(script), str(tmp_path), "3", "", processes=2)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("HoldfastError")]
    assert len(said) == 1
    assert "one of them has ended: what was finished is kept" in said[0]
    assert f"exitcode  : -{int(signal.SIGKILL)}" in done.stderr
    begun = {name: len(content) for name, content in records(tmp_path).items()}
    assert begun
    done = torchrun(str(script), str(tmp_path), "0", "", processes=3)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path) == records(alone)
    assert result(tmp_path) == result(alone)


def test_two_processes_find_through_an_index_what_one_finds(script: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    alone, shared = one_process(script, tmp_path / "alone", INDEX), tmp_path / "shared"
    done = torchrun(str(script), str(shared), "0", INDEX, processes=2)
    assert done.returncode == 0, done.stderr
    assert records(shared) == records(alone)
    assert result(shared) == result(alone)
    assert result(shared)["index"]["word"] == INDEX


@pytest.mark.parametrize(("index", "processes"), [("", 4), ("SQ8", 2)])
def test_a_gallery_spread_over_processes_gives_what_one_process_finds(
    index: str, processes: int, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 items in blocks of 16: of four processes one has none of them, of two one has two."""
    if index:
        pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setenv("SPREAD", "1")
    alone, shared = one_process(script, tmp_path / "alone", index), tmp_path / "shared"
    done = torchrun(str(script), str(shared), "0", index, processes=processes)
    assert done.returncode == 0, done.stderr
    assert records(shared) == records(alone)
    assert result(shared) == result(alone)


def test_two_hosts_find_what_one_process_finds(alone: Path, script: Path, tmp_path: Path) -> None:
    with two_hosts() as hosts:
        for done in torchrun_on(hosts, str(script), str(tmp_path), "0", ""):
            assert done.returncode == 0, done.stderr
    assert records(tmp_path) == records(alone)
    assert result(tmp_path) == result(alone)
