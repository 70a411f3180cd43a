"""What each stage of the cascade breaks: ``python -m benchmarks.stages zoo:NAME --root FOLDER --eps 16,32/255``.

Every stage attacks all queries that are right unattacked. *Alone* is how many it breaks, *on top* how many of these no
stage before it breaks, *only* how many no other stage breaks at all; *passes* are images forward and backward, for each
query. Printed as a table in Markdown.
"""

import argparse
from typing import Any

import torch

from benchmarks.side_by_side import machine
from holdfast.attacks.base import recall_at_1
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.cascade import descent, stages_of
from holdfast.evaluation.runner import Runner, Target, attacked_rows
from holdfast.evaluation.settings import AttackSettings, parse_radii, resolve_settings
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.tables import format_radius, markdown
from holdfast.util.progress import Progress

BATCH = 128
HEADER = ["model", "ε", "right", "stage", "alone", "on top", "only", "passes"]


def stages(target: Target, settings: AttackSettings) -> tuple[int, dict[str, tuple[set[int], float]]]:
    """How many queries are right unattacked, and by stage which of these it breaks, and the passes for each."""
    rows = attacked_rows("query", target, settings)
    queries = target.system.queries.take(rows)
    right = rows[recall_at_1(queries.embeddings, queries, target.system) > 0]
    found = {}
    for stage in stages_of(settings):
        records, runner = (
            Records(None),
            Runner("worst." + stage.name, stage.attack, descent(stage, settings), right, settings.seed, BATCH),
        )
        with Progress(stage.name, len(right)) as progress:
            for _ in runner.run(target, records, progress):
                pass
        broken = {record["id"] for record in records.of(runner.name) if record["after"]["R@1"] == 0}
        passes = sum(cost["forward"] + cost["backward"] for cost in records.costs)
        found[stage.name] = broken, passes / max(1, len(right))
    return len(right), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--root", help="where its data set lies")
    parser.add_argument("--eps", default="8,16,32,77/255", type=parse_radii)
    parser.add_argument("--queries", type=int, default=64)
    options = parser.parse_args()
    opened = open_model(options.model)
    pixels = load_test_set(opened, root=options.root)
    lines: list[list[Any]] = []
    for eps in options.eps:
        settings = resolve_settings(pixels.table.family, "worst", eps=eps, max_queries=options.queries)
        with prepared(opened.embed, pixels, settings, torch.device("cpu"), quiet=True) as target:
            right, found = stages(target, settings)
        before: set[int] = set()
        for name, (broken, passes) in found.items():
            others = set().union(*(known for other, (known, _) in found.items() if other != name))
            counts = len(broken), len(broken - before), len(broken - others)
            lines.append([opened.name, format_radius(eps, "linf"), right, name, *counts, f"{passes:.0f}"])
            before |= broken
    print(markdown(HEADER, [[*map(str, line)] for line in lines]))
    print(machine())


if __name__ == "__main__":
    main()
