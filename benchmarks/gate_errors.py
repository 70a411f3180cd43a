"""How often does ``holdfast gate`` err? ``python -m benchmarks.gate_errors``: verdicts on samples of made-up queries.

Each query is lost, gained, or answered alike by both models, with the probabilities of a true drop and of noise.
"""

import argparse
from collections import Counter

import numpy as np

from holdfast.gate.decide import RULED_OUT, Verdict, verdict_of
from holdfast.gate.paired import drop_between
from holdfast.gate.values import Each

CASES = [(drop, noise) for drop in (0.0, 0.05) for noise in (0.0, 0.01, 0.02, 0.05)]
"""A true drop, as a share, and which share the new model loses and gains by chance, each."""


def verdicts(drop: float, noise: float, samples: int, queries: int, allowed: float) -> Counter[Verdict]:
    """What a rule that allows a drop of ``allowed`` points says of so many samples."""
    generator, ids = np.random.default_rng(0), tuple(range(queries))
    found: Counter[Verdict] = Counter()
    for seed in range(samples):
        at = generator.random(queries)
        old, new = at < drop + noise, (at >= drop + noise) & (at < drop + 2 * noise)
        before, after = ({"R@1": Each(ids, 100 * one.astype(np.float64), 0.0, 100.0)} for one in (old, new))
        found[verdict_of(drop_between(before, after, seed=seed), allowed, RULED_OUT)[0]] += 1
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--max-drop", type=float, default=2.0)
    options = parser.parse_args(arguments)
    print("| true drop | noise | pass | fail | cannot tell |\n|---|---|---|---|---|")
    for drop, noise in CASES:
        found = verdicts(drop, noise, options.samples, options.queries, options.max_drop)
        shares = (f"{100 * found[one] / options.samples:g} %" for one in Verdict)
        print(f"| {100 * drop:g} points | {100 * noise:g} % | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
