"""What ``evaluate --dry-run`` says beside what the evaluation takes: ``python -m benchmarks.dry_run --root FOLDER``.

Three evaluations of the zoo's models: digits by ``strict``, and of Fashion-MNIST, in ``--root``, one by ``worst`` and
one by ``strict``; without ``--root`` the first alone. Both are measured in processor seconds of one thread, which other
work on the machine disturbs least; on a quiet machine wall seconds are about as many.
"""

import argparse
from time import process_time
from typing import Any

from benchmarks.side_by_side import Bar, row
from holdfast.evaluation.estimate import calls, parts, sketch
from holdfast.evaluation.estimate import estimate as estimates
from holdfast.evaluation.evaluate import evaluate
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set

OFF = Bar(most=1.25)
"""How many times longer or shorter an evaluation may take than was said."""

RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("zoo:digits-hm-s-lga-ics", "strict", {"eps": 0.2}),
    ("zoo:fashion-act-r", "worst", {}),
    ("zoo:fashion-none-r", "strict", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of Fashion-MNIST")
    parser.add_argument("--queries", type=int, default=64)
    options = parser.parse_args()
    for module in (calls, estimates, parts, sketch):
        module.perf_counter = process_time  # type: ignore[attr-defined]
    for word, protocol, given in RUNS if options.root else RUNS[:1]:
        model = open_model(word)
        images = load_test_set(model, root=options.root if "fashion" in word else None)
        settings = {**given, "max_queries": options.queries}
        found, began = estimates.estimate(model, images, protocol, **settings), process_time()
        result = evaluate(model, images, protocol, quiet=True, **settings)
        took = process_time() - began
        row(
            f"dry run of {word}, {protocol}, {options.queries} queries: off by",
            max(found.seconds, took) / min(found.seconds, took),
            "x",
            OFF,
            expected=found.seconds,
            most=found.most,
            took=took,
            dry_run=found.took,
            basis=found.basis,
            **{"robust R@1": result.content["robust R@1"]["value"]},
        )


if __name__ == "__main__":
    main()
