"""The doctor: what it looks at, and what it calls ill."""

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.cli import machine
from holdfast.cli.machine import CORE, EXTRAS, Finding, examine
from holdfast.core.pgd import PGD
from tests.conftest import Call


def finding(what: str) -> Finding:
    (found,) = [f for f in examine() if f.what == what]
    return found


def test_every_extra_is_looked_at() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys()


def test_a_working_machine(call: Call) -> None:
    findings = examine()
    names = [f.what for f in findings]
    assert len(set(names)) == len(names)
    assert {"python", *CORE, *EXTRAS, "processors", "GPU", "disk", "a hardening step"} == set(names)
    assert all(f.ok for f in findings if f.needed)
    assert {f.what for f in findings if not f.needed} == {*EXTRAS, "GPU"}
    details = {f.what: f.detail for f in findings}
    assert torch.__version__.startswith(details["torch"])  # 2.6.0+cu124 is of package 2.6.0
    assert details["disk"].endswith("GB free here")
    status, out, _ = call("doctor")
    assert status == 0, "a missing extra or GPU is no failure"
    assert all(name in out for name in names)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_no_illness(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXTRAS[extra][-1], None)
    found = finding(extra)
    assert (found.ok, found.needed) == (False, False)
    assert f"pip install 'holdfast[{extra}]'" in found.detail


def test_a_broken_extra_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def fails(name: str, *rest: Any) -> Any:
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return whole(name, *rest)

    monkeypatch.setattr("holdfast.util.extras.import_module", fails)
    found = finding("timm")
    assert (found.ok, found.needed) == (False, False)
    assert "torchvision::nms does not exist" in found.detail


def test_a_present_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", sys)
    assert finding("wandb").ok


def test_a_step_that_fails_is_an_illness(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(PGD, "__call__", fails)
    found = finding("a hardening step")
    assert (found.ok, found.needed) == (False, True)
    assert "no kernel image is available" in found.detail


def test_a_missing_library_is_an_illness(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr(machine, "CORE", (*CORE, "no-such-library"))
    found = finding("no-such-library")
    assert (found.ok, found.needed, found.detail) == (False, True, "pip install no-such-library")
    status, out, _ = call("doctor")
    assert status == 1
    assert "no-such-library" in out
