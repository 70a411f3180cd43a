"""The command line as a whole: torch only when it is needed, one line for what cannot work, mistakes in the open."""

import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from holdfast.cli import display
from holdfast.util.progress import Progress
from holdfast.util.text import CONTROLS
from tests.conftest import Call, Refuse
from tests.helpers import result_files


def test_help_imports_no_torch() -> None:
    code = """
import sys
from holdfast.cli import main
for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["report", "--help"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
heavy = {"torch", "numpy", "sklearn", "scipy", "PIL"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--recipe", "--data", "--root", "--set", "--resume", "--verify", "--best"):
        assert option in done.stdout


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("holdfast", run_name="__main__", alter_sys=True)
        return int(stop.value.code or 0), *capsys.readouterr()

    status, out, _ = run("--help")
    assert status == 0
    for verb in ("train", "evaluate", "attack", "report", "list", "doctor"):
        assert re.search(rf"^  {verb} ", out, re.MULTILINE)
    status, out, err = run("train", "--data", "digitz")
    assert (status, out) == (2, "")
    assert err.startswith("holdfast: unknown data set 'digitz'; did you mean 'digits'?")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"), [(["train", "--bogus"], r"No such option:? '?--bogus"), (["evalute"], "No such command")]
)
def test_a_command_written_wrongly(arguments: list[str], told: str, call: Call) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert re.search(told, err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 30 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried\nto"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=["python", "cpu", "gpu"],
)
def test_too_little_memory_is_one_line(
    error: Exception, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.training.loop.train", Mock(side_effect=error))
    assert "batch.pairs" in refused("train", "--data", "digits", "--out", tmp_path / "run")


def test_a_mistake_in_the_code_is_not_hidden(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    monkeypatch.setattr("holdfast.training.loop.train", Mock(side_effect=error))
    with pytest.raises(RuntimeError, match="mat1"):
        call("train", "--data", "digits", "--out", tmp_path / "run")


def test_an_interrupt_ends_quietly(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.training.loop.train", Mock(side_effect=KeyboardInterrupt))
    status, _, err = call("train", "--data", "digits", "--out", tmp_path / "run")
    assert status in (1, 130)
    assert "Traceback" not in err


STEER = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7f"
CODES = set(STEER) & set(map(chr, CONTROLS))


@pytest.mark.parametrize("style", ["markdown", "csv", "json"])
def test_names_in_a_result_do_not_steer_the_terminal(style: str, call: Call, tmp_path: Path) -> None:
    path = result_files.write(tmp_path / "result.json", name=STEER)
    status, out, _ = call("report", path, "--format", style)
    assert status == 0
    assert "owned" in out
    assert not CODES & set(out)
    if style == "json":
        assert json.loads(out)[0]["name"] == STEER


def test_tables_bars_and_errors_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refuse, tmp_path: Path
) -> None:
    display.table(STEER, [""], [[STEER]])
    with Progress(STEER, 1) as progress:
        progress.say(STEER)
        progress.advance(STEER)
    screen = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr("holdfast.util.progress.console", lambda: Console(file=screen, force_terminal=True, width=300))
        with Progress(STEER, 1) as progress:
            progress.advance(STEER)
    out = capsys.readouterr().out
    assert out.count("owned") >= 5
    assert "owned" in screen.getvalue()
    assert STEER[:2] not in screen.getvalue()
    assert not CODES & set(out)
    assert not CODES & set(refused("evaluate", f"{tmp_path}/{STEER}"))
