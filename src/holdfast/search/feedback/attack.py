"""A whole attack on a search that answers with ids: within a budget, resumable, with its success over the searches."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.feedback import FEEDBACK, RankFeedback, RankPromotion
from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.gradients import Square
from holdfast.core.pgd import PGD
from holdfast.data import Pixels
from holdfast.evaluation.evaluate import Data, as_pixels
from holdfast.evaluation.fingerprint import describe_data
from holdfast.evaluation.runner import Runner, Target, drawn, generators_of, matched_rows
from holdfast.evaluation.saving import check_folder, save
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.search.feedback.asking import Asking
from holdfast.search.feedback.curve import curve
from holdfast.search.oracles import open_search, public
from holdfast.search.oracles.base import SearchOracle
from holdfast.util import distributed
from holdfast.util.atomic import write_json
from holdfast.util.errors import HoldfastError, pick, shown
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.text import counted

FORMAT = "holdfast-search-attack-1"
NAME = "attack.json"


@dataclass(frozen=True)
class SearchAttack:
    """What became of the images: ``entries`` as in ``manifest.jsonl``, ``content`` as in ``attack.json``."""

    entries: list[dict[str, Any]]
    content: dict[str, Any]


def attack_search(
    search: str | SearchOracle,
    data: Data,
    name: str = RankFeedback.name,
    folder: str | Path = "adv",
    *,
    model: str | Path | OpenedModel | None = None,
    k: int = 10,
    query_budget: int = 1000,
    item: str | None = None,
    ids: Sequence[str] | None = None,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> SearchAttack:
    """Attack the images of a test set through the answers of a search alone, by Square's proposals, and save them.

    Args:
        search: ``faiss:FILE``, ``qdrant:FOLDER:COLLECTION``, ``postgresql://host/database?table=TABLE`` or
            ``http://host/path``; or a function ``search(images, k)`` from images (n, C, H, W) of 8 bits, in [0, 1], to
            the ids of the ``k`` nearest items of each, nearest first, as text.
        data: as of :func:`.evaluate`. Images of a table that has no queries are all attacked, and nothing is known of
            the search's items.
        name: ``rank-feedback``, away from the clean answer, or ``rank-promotion``, of an item of the gallery.
        folder: for the images, the searches, and ``attack.json``; a killed call goes on from there, and asks nothing
            twice.
        model: for a search with vectors, what makes them of images; see :func:`.open_model`.
        k: items of an answer.
        query_budget: searches per image, that of the clean image and, for a promotion, of the item included.
        item: the id of the item to promote; by default one is drawn for each image.
        ids: what the search calls the items of the gallery, in its order; by default their places, from 0.
        batch: images attacked, and so asked about, at once.
        settings: eps, norm, max_queries, seed, precision, of :class:`.AttackSettings`.

    Raises HoldfastError for what cannot be attacked, before anything is asked, and where the search fails for good.
    """
    pixels = as_pixels(data)
    attack, resolved = _resolve(pixels, pick("attack on a search", name, FEEDBACK), k, query_budget, settings)
    opened = None if model is None else open_model(model)
    if batch < 1:
        raise HoldfastError(f"batch is at least 1 image, not {batch}")
    known = _known(pixels, ids)
    if item is not None:
        attack = _promoting(attack, item, known)
    elif isinstance(attack, RankPromotion) and not known:
        raise HoldfastError(f"attack {name!r} promotes an item of the gallery, and there is none: give --gallery")
    folder, where = Path(folder), distributed.device(device)
    word = public(search) if isinstance(search, str) else "a function"
    facts = {"search": word, "model": opened and opened.name, "attack": repr(attack)}
    identity = resolved.hash(facts, {"batch": batch, "ids": list(known) if ids else None}, describe_data(pixels))
    with working_in(folder):
        check_folder(folder, identity)
        log = folder / f"searches-{identity}.jsonl"
        width = k + bool(known)  # its own entry is left out of a query's answer
        gallery = _gallery(pixels, known, width)
        rows = _selected(pixels, gallery, resolved)
        most = query_budget * len(rows)
        with (
            nullcontext(search)
            if callable(search)
            else open_search(
                search, opened, pixels, device=where, precision=resolved.precision, width=min(WIDTH, batch)
            ) as oracle,
            Progress("searching", most, quiet=quiet) as progress,
        ):
            asking = Asking(oracle, width, most, progress, known=known, free=len(pixels), file=log)
            try:
                target = _target(
                    asking, attack, pixels=pixels, rows=rows, gallery=gallery, resolved=resolved, batch=batch
                )
                runner = Runner(name, attack, _descent(attack, resolved), torch.arange(len(rows)), resolved.seed, batch)
                entries = save(runner, target, folder, identity, quiet=True)
            except HoldfastError as error:
                if not asking.answers:
                    raise
                kept = counted(len(asking.answers), "answer is", "answers are")
                raise HoldfastError(f"{error}; {kept} kept in {log}: repeat the command to go on") from error
        content = {
            "format": FORMAT,
            **facts,
            "attack": name,
            "k": k,
            "item": item,
            "settings": resolved.plain(),
            "data": describe_data(pixels) | {"attacked": len(entries)},
            "searches": len(asking.answers),
            "curve": curve(entries, [one for one in attack.milestones if one in entries[0]["after"]], query_budget),
        }
        write_json(folder / NAME, content)
    return SearchAttack(entries, content)


def _resolve(
    pixels: Pixels,
    kind: type[RankFeedback] | type[RankPromotion],
    k: int,
    budget: int,
    settings: dict[str, Any],
) -> tuple[RankFeedback | RankPromotion, AttackSettings]:
    if k < 1:
        raise HoldfastError(f"k is at least 1 result, not {k}")
    allowed = {"eps", "norm", "max_queries", "seed", "precision"}
    if other := [name for name, value in settings.items() if value is not None and name not in allowed]:
        raise HoldfastError(
            f"{other[0]} does not go with a search: what can be chosen there is {', '.join(sorted(allowed))}"
        )
    attack = kind(k)
    resolved = resolve_settings(pixels.table.family, black_box=True, attacks=(attack,), query_budget=budget, **settings)
    if not resolved.eps:
        raise HoldfastError("eps is above 0, or the images written would be those that were read")
    return attack, resolved


def _descent(attack: RankFeedback | RankPromotion, resolved: AttackSettings) -> PGD:
    """As many steps as the budget leaves beside the clean image's search, and that of an item; equal moves are taken,
    since the objective is a staircase."""
    assert resolved.query_budget is not None
    around = 2 if isinstance(attack, RankPromotion) else 1
    steps = resolved.query_budget - around
    return replace(resolved.pgd(), steps=steps, gradient=Square(accept=torch.le), best=False)


def _known(pixels: Pixels, ids: Sequence[str] | None) -> dict[str, int]:
    """The rows of the gallery's items in the test table by what the search calls them; empty without queries."""
    table = pixels.table
    rows = table.is_gallery.nonzero()[0].tolist() if table.is_query.any() else []
    if ids is None:
        return {str(i): row for i, row in enumerate(rows)}
    if len(ids) != len(rows):
        raise HoldfastError(f"there are {counted(len(ids), 'id')} for {counted(len(rows), 'item')} of the gallery")
    known = dict(zip(ids, rows, strict=True))
    if len(known) < len(rows):
        raise HoldfastError(f"an id stands for two items: {shown(next(one for one in ids if ids.count(one) > 1))}")
    return known


def _promoting(attack: RankFeedback | RankPromotion, item: str, known: dict[str, int]) -> RankPromotion:
    if not isinstance(attack, RankPromotion):
        raise HoldfastError(f"an item to promote goes with attack {RankPromotion.name!r}, not {attack.name!r}")
    if item not in known:
        raise HoldfastError(f"no item {shown(item)} to promote: the gallery has {counted(len(known), 'item')}")
    return replace(attack, item=known[item])


def _selected(pixels: Pixels, gallery: Gallery, resolved: AttackSettings) -> Tensor:
    """The rows (n,) of the test table that are attacked: those that :func:`.evaluate` attacks, which can be read; where
    nothing is known of the gallery, any."""
    table, rows = pixels.table, torch.arange(len(pixels))
    if len(gallery.ids):
        rows = torch.from_numpy(table.is_query).nonzero()[:, 0]
        rows = rows[matched_rows(rows, torch.from_numpy(table.labels)[rows], gallery, pixels, resolved)]
    else:
        rows = rows[drawn(rows, len(pixels), resolved)]
    readable = torch.cat([pixels.read(part)[1] for part in torch.split(rows, 64)])
    if not readable.any():
        raise HoldfastError(f"none of the {counted(len(rows), 'image')} to attack can be read")
    return rows[readable]


def _gallery(pixels: Pixels, known: dict[str, int], width: int) -> Gallery:
    """The items of the gallery, (N,) rows of the test table; answers (N, width) to their images are yet to be asked
    for, −1."""
    rows = torch.tensor(list(known.values()), dtype=torch.long)
    answers = torch.full((len(rows), width), -1.0, dtype=torch.float64)
    return Gallery(answers, torch.from_numpy(pixels.table.labels)[rows], rows)


def _target(
    asking: Asking,
    attack: RankFeedback | RankPromotion,
    *,
    pixels: Pixels,
    rows: Tensor,
    gallery: Gallery,
    resolved: AttackSettings,
    batch: int,
) -> Target:
    """The search as a system whose embeddings are its answers; of the gallery, those to the items to promote."""

    def answers(ids: Tensor) -> Tensor:
        return torch.cat([asking(pixels.read(part)[0]) for part in torch.split(ids, batch)])

    queries = Queries(answers(rows), torch.from_numpy(pixels.table.labels)[rows], rows)
    system = System(queries, gallery)
    chosen = attack.choose(queries, system, generators_of(attack.name, resolved.seed, rows.tolist()))
    if chosen.numel():
        items = torch.unique(chosen)
        gallery.embeddings[items] = answers(gallery.ids[items])
    model = WrappedModel(asking, width=min(batch, len(rows)))
    model.normalises = False
    return Target(model, system, pixels)
