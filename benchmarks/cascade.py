"""What the worst case costs beside the ten attacks: ``python -m benchmarks.cascade --root FOLDER_OF_FASHION_MNIST``.

Robust R@1 by the cascade, and the ten attacks of ``strict``, on the same queries of the zoo's models, in turns. The
gallery, embedded once, is in nobody's time. Without ``--root`` the models are those of the digits.
"""

import argparse
from time import process_time

from benchmarks.side_by_side import Bar, row
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.cascade import robust_recall
from holdfast.evaluation.runner import Target, attacked_rows, runners_of
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util.progress import Progress

HARDENED, PLAIN = Bar(most=3), Bar(most=0.2)
BATCH = 128


def ten(target: Target, settings: AttackSettings) -> float:
    """Processor seconds of the ten attacks."""
    records, runners, began = Records(None), runners_of(target, settings, BATCH), process_time()
    with Progress("ten attacks", sum(len(one.images) for one in runners)) as progress:
        for runner in runners:
            for _ in runner.run(target, records, progress):
                pass
    return process_time() - began


def worst(target: Target, settings: AttackSettings) -> tuple[float, float]:
    """Robust R@1 in percent, and the processor seconds it took."""
    rows, began = attacked_rows("query", target, settings), process_time()
    with Progress("cascade", 0) as progress:
        found, _ = robust_recall(target, settings, rows, Records(None), progress, batch=BATCH)
    return found["value"], process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of Fashion-MNIST")
    parser.add_argument("--queries", type=int, default=64)
    options = parser.parse_args()
    data = "digits" if options.root is None else "fashion"
    for recipe in ("none-r", "hm-s-lga-ics", *(["act-r"] if options.root else [])):
        opened = open_model(f"zoo:{data}-{recipe}")
        pixels = load_test_set(opened, root=options.root)
        settings = resolve_settings(pixels.table.family, max_queries=options.queries)
        with prepared(opened.embed, pixels, settings, "cpu", quiet=True) as target:
            value, seconds = worst(target, settings)
            beside = ten(target, settings)
        facts = {"queries": options.queries, "robust R@1": value, "seconds": seconds, "ten attacks, seconds": beside}
        row(
            f"cascade, {opened.name}",
            seconds / beside,
            "× the ten attacks",
            PLAIN if recipe == "none-r" else HARDENED,
            **facts,
        )


if __name__ == "__main__":
    main()
