"""A whole evaluation of any model: attacked, scored, checked, and written down."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.attacks import System
from holdfast.core.batching import spread
from holdfast.core.pgd import Embed
from holdfast.data import Pixels, Table
from holdfast.evaluation.checks import CHECK_STEPS, most_asked
from holdfast.evaluation.checks.trust import CHECKED, Trust, find_out
from holdfast.evaluation.fingerprint import describe_data, model_fingerprint
from holdfast.evaluation.indexed.factory import check_index
from holdfast.evaluation.indexed.gallery import images_at_once, index_found, indexed
from holdfast.evaluation.records import Records, write_benign
from holdfast.evaluation.result import FORMAT, NAME, ROBUST, RRS, Result, read
from holdfast.evaluation.robust.cascade import most_steps, stages_of
from holdfast.evaluation.robust.certified import certified_recall
from holdfast.evaluation.robust.minimal import HALVINGS
from holdfast.evaluation.robust.rrs import rrs
from holdfast.evaluation.robust.worst import worst_case
from holdfast.evaluation.runner import Runner, Target, attacked_rows, runners_of
from holdfast.evaluation.scores import summarise
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.metrics.benign import benign_of
from holdfast.metrics.clustering import nmi
from holdfast.metrics.collapse import collapsed, gauges
from holdfast.metrics.retrieval import per_query
from holdfast.models import zoo
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.embedding import EmbeddedDataset, embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.folder import environment
from holdfast.util import distributed
from holdfast.util.atomic import write_json
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import tidy, working_in
from holdfast.util.progress import Progress, format_duration
from holdfast.util.text import counted

SAMPLE = 32
GAUGES = ("mean_cosine", "effective_rank")
COUNTS = ("queries", "queries_without_match")

Data = Pixels | tuple[Any, Any]


def evaluate(
    model: str | Path | Embed | OpenedModel,
    data: Data | None = None,
    protocol: str = "strict",
    *,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    surrogate: str | Path | Embed | OpenedModel | None = None,
    batch: int = 128,
    checks: bool = True,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Attack a retrieval model and score it.

    Args:
        model: what :func:`.open_model` takes: a word such as ``runs/x``, ``zoo:NAME`` or ``timm:NAME``, an opened
            model, or any callable from images (n, C, H, W) in [0, 1] to vectors (n, D). A module is moved to the
            device, and is in evaluation mode meanwhile.
        data: a test set as :class:`Pixels`, or a pair of images, (N, H, W) or (N, H, W, 3) uint8, and labels, (N,).
            None: the test set of the model's own run.
        protocol: ``strict``, ``cvpr22``, ``worst`` (robust R@1 alone) or ``benign``.
        name: of the model, in tables; by default its own.
        about: what else the result should say of the model, as plain data.
        folder: an evaluation is kept in ``folder/PROTOCOL-HASH``, and goes on from there after a kill. None: in
            ``evaluations/`` of the run folder, of a run on its own test set; any other evaluation is kept in memory.
        surrogate: another model; the attacks see only its gradients (transfer).
        batch: images attacked at once; strict results do not depend on it.
        checks: find out whether the scores can be trusted.
        device: by default the GPU where there is one.
        settings: of :class:`.AttackSettings`: eps, step, steps, norm, gradient, query_budget, precision, restarts,
            attacks, max_queries, seed, cascade, minimal_eps, index, sigma, draws, alpha. Without ``eps`` the radius is
            the paper's for the data set; a pair of arrays has none. A model that an adapter knows to have no gradients
            is attacked by Square. An attack is a name, or an object that is a :class:`.RankingAttack`: its ``name``,
            else its class in lower case, names its records, and its repr stands for it in the result's hash. An
            ``index``, such as ``IVF256,PQ32:nprobe=16``, is what the gallery is searched by.

    Raises HoldfastError for what cannot be evaluated, before any attack.
    """
    opened, pixels, resolved, other_embed = asked(model, data, protocol, settings, surrogate=surrogate, batch=batch)
    if folder is None and data is None:
        folder = results_folder(opened)
    where = distributed.device(device)
    white = resolved.attacking and resolved.gradient == "white-box"
    with (
        distributed.process_group(where),
        examined(opened.embed, pixels, where, resolved, white and surrogate is None) as wrapped,
        examined(other_embed, pixels, where, resolved, white) as other,
        ExitStack() as held,
    ):
        quiet, ranks = quiet or distributed.rank() > 0, distributed.world()
        if not resolved.cascade:
            wrapped.require_repeatable()
        target, embedded = target_of(wrapped, pixels, where, quiet, ranks)
        transfer = None if other is None else target_of(other, pixels, where, quiet, ranks)[0]
        hashes = {"hash": model_fingerprint(target), "surrogate": transfer and model_fingerprint(transfer)}
        identity = resolved.hash(hashes, describe_data(pixels))
        place = None if folder is None else Path(folder) / f"{protocol}-{identity}"
        if place is not None and (known := distributed.by_first(lambda: finished(place, checks))):
            return known
        distributed.by_first(lambda: held.enter_context(working_in(place)))
        target, index = indexed(target, resolved)
        batch = images_at_once(batch, len(target.system.items))
        unattacked = per_query(target.system.queries, target.system.gallery, shared=target.shared)
        measured = distributed.by_first(lambda: clean_scores(target, unattacked, embedded.classes, resolved.seed))
        remarks, seen = [*opened.remarks, *wrapped.remarks, *wrapped.faults, *pixels.remarks()], other or wrapped
        if white and not seen.differentiable:
            if not measured["collapsed"]:
                seen.require_gradients()
            resolved = replace(resolved, attacks=(), cascade=False, minimal_eps=False)
            remarks += [f"collapsed, and no gradient reaches the pixels ({seen.obstacle}): no attack was tried"]
        runners = runners_of(target, resolved, batch)
        rows, records = attacked_rows("query", target, resolved), distributed.by_first(lambda: Records(place))
        worst, standing = _carry_out(
            runners, rows, target, resolved, records, transfer=transfer, batch=batch, checks=checks, quiet=quiet
        )
        scores = _scores(runners, target, resolved, records)
        trust = Trust()
        if checks:
            trust = find_out(target, resolved, runners, records, standing, transfer=transfer, quiet=quiet)
        if (robust := worst[ROBUST]) and trust.checks:
            robust["converged"] = trust.converged
        content = {
            "format": FORMAT,
            "name": name or opened.name,
            "model": {**opened.about, **(about or {}), **hashes, "dim": embedded.z.shape[1], "remarks": remarks},
            "data": describe_data(pixels) | {"attacked": len(rows) if resolved.attacking else 0},
            "protocol": protocol,
            "protocol_version": resolved.rules.version,
            "settings": resolved.plain(),
            "hash": identity,
            **measured,
            **scores,
            **worst,
            "further": trust.further,
            **index_found(index, target, resolved, records, measured["benign"]),
            "certified": certified_recall(target, resolved, records, quiet=quiet),
            "checks": [asdict(one) for one in trust.checks],
            "trusted": trust.trusted(target),
            "cost": records.cost(),
            "environment": environment(),
        }
        if place is not None and distributed.rank() == 0:
            write_benign(place, target.system.queries.ids, unattacked)
            write_json(place / NAME, content)
    return Result(None if place is None else place / NAME, content)


def asked(
    model: str | Path | Embed | OpenedModel,
    data: Data | None,
    protocol: str,
    settings: Mapping[str, Any],
    *,
    surrogate: str | Path | Embed | OpenedModel | None,
    batch: int,
) -> tuple[OpenedModel, Pixels, AttackSettings, Embed | None]:
    """What is to be evaluated, on what, how, and whose gradients the attacks see; refused where it does not fit."""
    opened = open_model(model)
    pixels = load_test_set(opened) if data is None else as_pixels(data)
    black_box = opened.black_box and surrogate is None
    resolved = resolve_settings(pixels.table.family, protocol, black_box=black_box, **settings)
    if surrogate is not None and not resolved.rules.best:
        raise HoldfastError(f"protocol {protocol!r} has no transfer attacks; use protocol 'strict'")
    if batch < 1:
        raise HoldfastError(f"batch is at least 1 image, not {batch}")
    check_index(resolved.index)
    return opened, pixels, resolved, None if surrogate is None else open_model(surrogate).embed


def results_folder(model: OpenedModel) -> Path:
    """Where evaluations of a model on its own test set are kept: in its run folder; of the zoo, and of others, here."""
    if model.folder is None or zoo.is_entry(model.word or ""):
        return Path("evaluations") / model.name
    return model.folder / "evaluations"


@contextmanager
def prepared(
    embed: Embed,
    pixels: Pixels,
    resolved: AttackSettings,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> Iterator[Target]:
    """A model, looked at and fixed inside, as the target of a budget's attacks.

    Raises HoldfastError where they need gradients and none reach the pixels.
    """
    where = distributed.device(device)
    white = resolved.gradient == "white-box"
    with examined(embed, pixels, where, resolved, white) as wrapped:
        wrapped.require_repeatable()
        if white:
            wrapped.require_gradients()
        yield target_of(wrapped, pixels, where, quiet)[0]


def as_pixels(data: Data) -> Pixels:
    """A test set from what :func:`evaluate` takes."""
    if isinstance(data, Pixels):
        return data
    if not isinstance(data, tuple) or len(data) != 2:
        raise HoldfastError(f"data is a Pixels or a pair (images, labels), not {type(data).__name__}")
    images, labels = (np.asarray(part) for part in data)
    table = Table.build("images", images, labels, ["test"] * (len(images) if images.ndim else 0)).test()
    if images.shape[1] != images.shape[2]:
        raise HoldfastError(f"images of a pair (images, labels) are square, not {images.shape[1]}x{images.shape[2]}")
    return Pixels(table, images.shape[1], channels=1 if images.ndim == 3 else 3)


def finished(place: Path, checks: bool) -> Result | None:
    """The result that lies in a folder, tidied, if it has all that is asked for."""
    if not (place / NAME).exists():
        return None
    result = read(place / NAME)
    settings = result.content["settings"]
    attacked = settings["attacks"] or settings.get("cascade")
    if checks and attacked and not result.content.get("checks"):
        return None
    tidy(place)
    return result


@contextmanager
def examined(
    embed: Embed | None, pixels: Pixels, device: torch.device, resolved: AttackSettings, white: bool
) -> Iterator[Any]:
    """The model as a subject that was looked at, fixed for the time being; None for None.

    white: gradients are needed. A model that looks collapsed is passed even without: it may need no attack.
    """
    if embed is None:
        yield None
        return
    wrapped = WrappedModel(embed.to(device) if isinstance(embed, nn.Module) else embed, resolved.precision)
    rows = spread(len(pixels), SAMPLE)
    images, readable = pixels.read(rows)
    if readable.sum() < 2:
        raise HoldfastError(
            f"fewer than two of {counted(len(rows), 'image')} tried can be read; the first is {_first(pixels)}"
        )
    sample = images[readable].to(device)
    wrapped.examine(sample)
    with wrapped.frozen():
        if white and not wrapped.differentiable:
            with torch.no_grad():
                if not collapsed(gauges(wrapped(sample))):
                    wrapped.require_gradients()
        yield wrapped


def _first(pixels: Pixels) -> str:
    return pixels.table.name_of(min(pixels.broken, default=0))


def target_of(
    wrapped: WrappedModel, pixels: Pixels, device: torch.device, quiet: bool, ranks: int = 1
) -> tuple[Target, EmbeddedDataset]:
    """The system that a model makes of a test set; with several ``ranks`` each embeds its share."""
    with Progress("embedding", len(pixels), quiet=quiet) as progress, wrapped.seeded(0):
        embedded = embed_dataset(wrapped, pixels, device, progress, ranks=ranks)
    for side, images in {"queries": embedded.queries, "gallery": embedded.gallery}.items():
        if not len(images.ids):
            raise HoldfastError(f"{pixels.table.name}: nothing to evaluate, there is no readable image in the {side}")
    return Target(wrapped, System(embedded.queries, embedded.gallery).laid_out(), pixels, ranks), embedded


def _carry_out(
    runners: list[Runner],
    rows: Tensor,
    target: Target,
    resolved: AttackSettings,
    records: Records,
    *,
    transfer: Target | None,
    batch: int,
    checks: bool,
    quiet: bool,
) -> tuple[dict[str, Any], Tensor]:
    """Make all the records; the worst case, and the rows of queries still right, as :func:`worst_case` has them."""
    total, done = sum(len(one.images) for one in runners), sum(len(records.of(one.name)) for one in runners)
    with Progress("attacking", total, done, quiet=quiet) as progress:
        if total > done and not (quiet or resolved.query_budget or target.system.gallery.spread):
            checked = CHECK_STEPS * min(CHECKED, len(runners[0].images)) if checks else 0
            unit = runners[0].seconds_per_step(target, transfer)
            left = format_duration(unit * ((total - done) * max(1, resolved.steps) + checked))
            most = unit * len(rows) * most_steps(resolved)
            robust = f"; then robust R@1: at most {format_duration(most)}" if most else ""
            progress.say(f"{counted(len(runners), 'attack')}{' and checks' if checks else ''}: about {left}{robust}")
        if resolved.query_budget and not quiet:
            stages = len([*stages_of(resolved)]) if resolved.cascade else 0
            stages += (HALVINGS * stages + 1) * resolved.minimal_eps
            asked = resolved.query_budget * (total + stages * len(rows))
            extra = most_asked(resolved) * min(CHECKED, len(rows)) if checks else 0
            of_checks = f", {extra:,} of them by the checks" if extra else ""
            progress.say(f"at most {asked + extra:,} model queries{of_checks}")
        for runner in runners:
            for _ in runner.run(target, records, progress, transfer):
                pass
        return worst_case(target, resolved, rows, records, progress, batch=batch, surrogate=transfer)


def _scores(runners: list[Runner], target: Target, resolved: AttackSettings, records: Records) -> dict[str, Any]:
    """``columns``, and what is made of them, of a result."""
    found = {runner.name: records.of(runner.name) for runner in runners}
    scores = summarise(found, _batch(resolved, target.pixels), resolved.seed)
    sides = {runner.name: runner.attack.side for runner in runners}
    return {**scores, RRS: scores["ERS"] and rrs(found, sides, target.system, resolved.seed)}


def clean_scores(target: Target, unattacked: Mapping[str, Tensor], classes: int, seed: int) -> dict[str, Any]:
    """``benign``, ``gauges`` and ``collapsed`` of a result. unattacked: the scores of each query."""
    gallery = target.system.gallery
    scores = benign_of(unattacked, gallery)
    gauges = {name: scores.pop(name) for name in GAUGES}
    counts = {name: int(scores.pop(name)) for name in COUNTS}
    scores["NMI"] = nmi(gallery.embeddings, gallery.labels, seed=seed)
    return {
        "benign": {**scores, **counts, "unreadable": len(target.pixels.broken)},
        "gauges": gauges,
        "collapsed": collapsed(gauges, classes),
    }


def _batch(resolved: AttackSettings, pixels: Pixels) -> int | None:
    batches = resolved.rules.batch
    return None if batches is None else batches[pixels.table.family or "224"]
