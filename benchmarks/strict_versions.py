"""How far version 1 of ``strict`` was off: ``python -m benchmarks.strict_versions zoo:fashion-act-r --root FOLDER``.

Version 1 took steps of 3/255 that fell linearly, for any radius; version 2 takes those of Auto-PGD. The ten scores by
both, of the same queries and targets, with as many steps. Printed as a table in Markdown.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.side_by_side import machine
from holdfast.core.pgd import DECAYING
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.protocols import BUDGETS
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Runner, Target, runners_of
from holdfast.evaluation.scores import summarise
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.tables import format_number, markdown
from holdfast.util.progress import Progress

BATCH = 128


def scores(target: Target, runners: Sequence[Runner], seed: int) -> dict[str, float]:
    """The ten scores, the ERS and the least R@1."""
    records = Records(None)
    with Progress("attacking", sum(len(one.images) for one in runners)) as progress:
        for runner in runners:
            for _ in runner.run(target, records, progress):
                pass
    found = summarise(records.kept, None, seed)
    made = {name: found[name]["value"] for name in ("least R@1", "ERS")}
    return {name: one["value"] for name, one in found["columns"].items()} | made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--root", help="where its data set lies")
    parser.add_argument("--queries", type=int, default=128)
    options = parser.parse_args()
    opened = open_model(options.model)
    pixels = load_test_set(opened, root=options.root)
    family = pixels.table.family or "28"
    settings = resolve_settings(family, max_queries=options.queries)
    with prepared(opened.embed, pixels, settings, torch.device("cpu"), quiet=True) as target:
        now = runners_of(target, settings, BATCH)
        pgd = replace(settings.pgd(), step=BUDGETS[family][1], schedule=DECAYING)
        first, second = (scores(target, each, settings.seed) for each in ([replace(one, pgd=pgd) for one in now], now))
    lines = [["version 1", *(format_number(*one) for one in first.items())]]
    lines.append(["version 2", *(format_number(*one) for one in second.items())])
    print(markdown([opened.name, *first], lines))
    print(machine())


if __name__ == "__main__":
    main()
