"""All benchmarks: ``python -m benchmarks --data FOLDER``, or ``make bench DATA=FOLDER``; under 20 minutes on 2 cores.

The folder holds ``fashion-mnist/`` and ``CUB_200_2011/``; without it the images are digits, and noise. Each
benchmark has one thread, for then CPU time is work and not waiting; two run side by side.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

JOBS = 2
SETS = ("fashion-mnist", "CUB_200_2011")


def commands(data: Path | None) -> list[list[str]]:
    """Name and options of each benchmark, the longest first."""
    clothes, birds = ([] if data is None else ["--root", str(data / name)] for name in SETS)
    return [
        ["evaluation", "--precision", "float32", *clothes],
        ["evaluation", "--precision", "bfloat16", *clothes],
        ["cascade", *clothes],
        ["step", "--steps", "32", *clothes],
        ["step", "--backbone", "resnet18", "--pairs", "28", "--size", "112"],
        ["step", "--backbone", "resnet18", "--pairs", "28", "--size", "64"],
        ["step", "--backbone", "efficientnet_lite0", "--pairs", "8", "--size", "64", "--precision", "float32"],
        ["step", "--steps", "8", *clothes],
        ["step", "--steps", "8", "--recipe", "act-r", *clothes],
        ["step", "--steps", "8", "--recipe", "est-r", *clothes],
        ["scaling"],
        ["memory"],
        ["indexed"],
        ["rank_feedback"],
        ["metrics"],
        ["loading", *birds],
        ["startup"],
    ]


def run(command: list[str]) -> tuple[list[str], str, int]:
    """A benchmark's command, what it printed, and its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return command, done.stdout, done.returncode


def rows(output: str) -> list[dict[str, Any]]:
    """The rows in what a benchmark printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"row"')]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with fashion-mnist/ and CUB_200_2011/")
    options = parser.parse_args()
    for name in SETS:
        if options.data is not None and not (options.data / name).is_dir():
            parser.error(f"there is no {name}/ in {options.data}; --data is a folder that holds {' and '.join(SETS)}")
    table = Table("row", "figure", "bar", "met")
    failed = []
    with ThreadPoolExecutor(JOBS) as pool:
        for command, output, code in pool.map(run, commands(options.data)):
            print(f"$ python -m benchmarks.{' '.join(command)}\n{output}", flush=True)
            failed += [command] if code else []
            for one in rows(output):
                met = {True: "yes", False: "NO", None: ""}[one.get("met")]
                table.add_row(one["row"], f"{one['figure']:.3g} {one['unit']}", one.get("bar", ""), met)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for command in failed:
        print(f"FAILED: python -m benchmarks.{' '.join(command)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
