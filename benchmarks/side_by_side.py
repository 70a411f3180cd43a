"""Work timed side by side in one run, and rows that say what came of it.

Times are CPU seconds of the process: other work on the machine disturbs them least. On a GPU they are wall seconds.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

REPEATS = 5
CPU = torch.device("cpu")


def settle(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    device: torch.device = CPU,
) -> dict[str, float]:
    """Median seconds of each piece of work, tried in turns ``repeats`` times, after one turn that does not count."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            settle(device)
            began = clock()
            work()
            settle(device)
            if turn:
                seconds[name].append(clock() - began)
    return {name: median(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Bar:
    """What a figure is measured against: at least, or at most, so much."""

    least: float | None = None
    most: float | None = None

    def met(self, figure: float) -> bool:
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


def tell(name: str, figure: float, unit: str, **details: Any) -> None:
    """Print a figure: a line to read, and a line of JSON with the details."""
    _print(name, figure, unit, "", details)


def row(name: str, figure: float, unit: str, bar: Bar, **details: Any) -> None:
    """:func:`tell` a figure beside its bar."""
    met = bar.met(figure)
    verdict = f" (bar: {bar}, {'met' if met else 'NOT MET'})"
    _print(name, figure, unit, verdict, {"bar": str(bar), "met": met, **details})


def _print(name: str, figure: float, unit: str, verdict: str, details: Mapping[str, Any]) -> None:
    print(f"{name}: {figure:.3g} {unit}{verdict}")
    facts = {"row": name, "figure": figure, "unit": unit, **machine(), **details}
    print(json.dumps({key: _rounded(value) for key, value in facts.items()}), flush=True)


def machine() -> dict[str, Any]:
    """What the figures of this process hang on."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
