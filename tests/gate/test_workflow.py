"""The workflow on the page of the gate: its shell steps, run as a script, on the bundled digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

from holdfast.util.validate import parse_yaml
from tests.helpers.pages import DOCS, PAGES, blocks


def test_the_steps_of_the_workflow_work_as_written(tmp_path: Path) -> None:
    found = {block.language: block.code for block in blocks(PAGES[DOCS / "gate.md"])}
    steps = parse_yaml(found["yaml"], "the workflow")["jobs"]["gate"]["steps"]
    shell = [step["run"] for step in steps if "run" in step and step["name"] != "install"]
    assert len(shell) == 2
    script = tmp_path / "steps.sh"
    script.write_text("\n".join(["set -eu", found["bash"], *shell]))
    program = tmp_path / "bin" / "holdfast"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    done = subprocess.run(["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gate: pass" in done.stdout
    assert (tmp_path / "summary.md").read_text().startswith("## holdfast gate: pass")
    assert 'errors="0"' in (tmp_path / "gate.xml").read_text()
    assert json.loads((tmp_path / "badge.json").read_text())["label"] == "robust R@1"
