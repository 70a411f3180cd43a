"""Results as the Hugging Face Hub lists them: ``.eval_results/*.yaml`` in the folder of a model.

The format is that of https://huggingface.co/docs/hub/eval-results: a list of entries, each with the data set that hosts
the leaderboard, a task of it, a value, and notes. The data set names its tasks in its own ``eval.yaml``.
"""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from holdfast.evaluation.result import CERTIFIED, ROBUST, RRS, Result
from holdfast.report.tables import setting_of
from holdfast.util.errors import HoldfastError

PLACE = ".eval_results/holdfast.yaml"
LISTED = ("R@1", "mAP", ROBUST, "ERS", RRS)
"""The scores that become entries, and certified R@1 at each radius."""
FRAMEWORK = "holdfast"
DECIMALS = 4
REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def check_benchmark(name: str) -> str:
    """A data set of the Hub, ``OWNER/NAME``. Raises HoldfastError for what is none."""
    if not REPOSITORY.fullmatch(name):
        raise HoldfastError(f"a benchmark is a data set of the Hub, OWNER/NAME, not {name!r}")
    return name


def eval_results(results: Iterable[Result], benchmark: str) -> str:
    """The YAML of results whose verdict is ``ok``; others are left out, and of two for one task the first counts.

    A task is a protocol and a score, such as ``worst-robust_r1``.
    """
    entries: dict[str, dict[str, Any]] = {}
    for result in results:
        for score in (*LISTED, *(name for name in result.extras if name.startswith(CERTIFIED))):
            value = result.number(score)
            if result.verdict == "ok" and value is not None:
                entry = {
                    "dataset": {"id": benchmark, "task_id": task(result, score)},
                    "value": round(value, DECIMALS),
                    "evaluation_framework": FRAMEWORK,
                    "notes": f"{score}, {setting_of(result)}",
                }
                entries.setdefault(task(result, score), entry)
    return yaml.safe_dump([*entries.values()], sort_keys=False, allow_unicode=True)


def task(result: Result, score: str) -> str:
    """The task of a score under the protocol of a result."""
    named = re.sub(r"[^a-z0-9]+", "_", score.lower().replace("@", "")).strip("_")
    return f"{result.content['protocol']}-{named}"
