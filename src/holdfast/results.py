"""What an evaluation finds, as a file beside the run: numbers as numbers."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from holdfast import distributed
from holdfast.assemble import pixels_of, table_of
from holdfast.embedder import Embedder
from holdfast.errors import HoldfastError
from holdfast.evaluation import benign, clustering, embed_test, is_collapsed
from holdfast.progress import Progress
from holdfast.run import Run, environment
from holdfast.weights import replacing


def evaluate_run(
    folder: str | Path,
    *,
    root: str | Path | None = None,
    best: bool = False,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> dict[str, float | bool | str]:
    """Evaluate a run's embedder on its test set, and write ``evaluation.json`` into the run folder.

    root: where the data set lies now, if elsewhere than in training. best: the weights of the best validation.

    Returns R@1, R@2, R@4, R@8, mAP, mAP@R, R-Precision and NMI in percent, the collapse gauges and their verdict.
    """
    run = Run(folder)
    config = run.config()
    if root is not None:
        config = replace(config, data=replace(config.data, root=str(root)))
    weights = run.best if best else run.folder
    if not weights.is_dir():
        raise HoldfastError(f"{run.folder} has no best/: no validation after the warm-up; evaluate it without --best")
    where = distributed.device(device)
    embedder = Embedder.from_pretrained(weights).to(where)
    pixels = pixels_of(config, table_of(config).test())
    with Progress("embedding", len(pixels), quiet=quiet) as progress:
        embedded = embed_test(embedder, pixels, where, progress)
    scores: dict[str, float | bool | str] = {**benign(embedded)}
    gauges = {name: scores.pop(name) for name in ("mean_cosine", "effective_rank")}
    counts = {name: int(scores.pop(name)) for name in ("queries", "queries_without_match")}
    scores["NMI"] = clustering(embedded, config.seed)
    scores |= gauges | {"collapsed": is_collapsed(gauges, embedded)} | counts | {"unreadable": len(pixels.broken)}  # type: ignore[arg-type]
    which = "best" if best else "last"
    result = {"weights": which, "recipe": config.recipe, "data": config.data.name, "scores": scores}
    with replacing(run.folder / ("evaluation-best.json" if best else "evaluation.json")) as path:
        path.write_text(json.dumps({**result, "environment": environment()}, indent=2) + "\n")
    return scores
