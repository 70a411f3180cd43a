"""How long ``holdfast --help`` takes: ``python -m benchmarks.startup``. Wall seconds of whole processes, medians."""

import argparse
import subprocess
import sys
import time
from statistics import median

from benchmarks.side_by_side import Bar, row

HELP = ["-m", "holdfast", "--help"]
NOTHING = ["-c", "pass"]


def seconds(arguments: list[str]) -> float:
    """Wall seconds of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def imported(arguments: list[str]) -> list[str]:
    """The modules that a Python process imports."""
    found = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True
    ).stderr
    return [line.rsplit("|")[-1].strip() for line in found.splitlines() if line.startswith("import time:")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()

    times = [(seconds(HELP), seconds(NOTHING)) for _ in range(options.repeats + 1)][1:]
    shown, nothing = (median(column) for column in zip(*times, strict=True))
    modules = imported(HELP)
    facts = {"interpreter": nothing, "modules": len(modules), "repeats": options.repeats}
    row("start-up: holdfast --help", shown, "s", Bar(most=0.3), **facts)
    torch = [name for name in modules if name.split(".")[0] == "torch"]
    row("start-up: torch modules imported by holdfast --help", len(torch), "modules", Bar(most=0))


if __name__ == "__main__":
    main()
