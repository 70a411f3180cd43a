"""The board: models side by side where their results compare, each with its page, its command and its file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from holdfast.evaluation.result import LEAST, ROBUST, RRS, Result
from holdfast.evaluation.words import LOWER, SCORE_WORDS, verdict_words
from holdfast.report.groups import conditions, disagreements
from holdfast.report.html.entries import by_setting, doubts, entries
from holdfast.report.html.page import Section, environment, page, whole
from holdfast.report.html.sections.glance import figures
from holdfast.report.html.sections.repeat import command
from holdfast.report.tables import format_bounded, setting_of
from holdfast.util.text import counted, to_json

MEASURES = (ROBUST, "R@1", LEAST, "ERS", RRS)
"""The columns of every board; :attr:`.Result.extras` follow where a result has them."""
NAMED = 60
"""Characters of a model's name in the name of its files."""


@dataclass(frozen=True)
class Board:
    """Results under the same conditions, two at least: those in doubt last, else by robust R@1, least R@1, ERS."""

    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        """Data set and attack, and on how many queries by which seed."""
        first = self.results[0]
        attacked, seed = first.content["data"].get("attacked"), first.content["settings"].get("seed")
        parts = [str(setting_of(first))]
        parts += [counted(int(attacked), "query")] if attacked else []
        parts += [f"seed {seed}"] if attacked and seed is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Refused:
    """A result that compares with no other, and why."""

    result: Result
    why: str


def boards(results: Sequence[Result]) -> tuple[list[Board], list[Refused]]:
    """The boards, that with the most results first, and the results that are on none.

    Results are on one board where all :func:`.conditions` agree. A second result of the same weights (by hash) under
    the same conditions is refused: it is no other model.
    """
    alike: dict[str, list[Result]] = {}
    refused = []
    for result in results:
        known = alike.setdefault(json.dumps(conditions(result), sort_keys=True), [])
        weights = result.content["model"].get("hash")
        twin = next((one for one in known if weights and one.content["model"].get("hash") == weights), None)
        if twin is not None:
            refused.append(Refused(result, f"it has the weights of {twin.name}, which is on the board"))
        else:
            known.append(result)
    several = sorted((known for known in alike.values() if len(known) > 1), key=len, reverse=True)
    found = [Board(tuple(sorted(known, key=_place))) for known in several]
    lone = [known[0] for known in alike.values() if len(known) == 1]
    return found, [*(Refused(one, _why(one, found, lone)) for one in lone), *refused]


def site(results: Sequence[Result]) -> dict[str, str]:
    """The files of a site by their names: ``index.html``, the board; a page for each result; each result file."""
    made, refused = boards(results)
    names = _file_names(results)
    files = {f"models/{names[id(one)]}.html": page([one], None, 0) for one in results}
    files |= {f"results/{names[id(one)]}.json": to_json(one.content) for one in results}
    templates = environment()
    shown = []
    for i, board in enumerate(made, start=1):
        earlier = {f"board-{j}": one.results[0] for j, one in enumerate(made[: i - 1], start=1)}
        other, apart = _nearest(board.results[0], earlier)
        title = made[int(other.removeprefix("board-")) - 1].title if other else ""
        body = templates.get_template("board.html.j2").render(
            _filled(board, names), apart={"to": other, "title": title, "why": apart} if other else None
        )
        shown.append(Section(f"board-{i}", board.title, body))
    if refused:
        rows = [
            {**_links(one.result, names), "setting": str(setting_of(one.result)), "why": one.why} for one in refused
        ]
        body = templates.get_template("refused.html.j2").render(rows=rows)
        shown.append(Section("refused", "On no board", body))
    controls = templates.get_template("controls.html.j2").render(columns=_columns(results), boards=bool(made))
    reading = Section("find", "Find a model", controls)
    lead = (
        f"{counted(len(results), 'evaluation')}: how well models retrieve clean images, how much of that is left when "
        "an attacker changes the images a little, and whether the numbers can be trusted."
    )
    return {**files, "index.html": whole("Retrieval under attack: the board", lead, [reading, *shown], "board.js")}


def _place(result: Result) -> tuple[bool, list[float], str]:
    values = [result.number(name) for name in (ROBUST, LEAST, "ERS")]
    return bool(doubts(result.verdict)), [1.0 if one is None else -one for one in values], result.name


def _nearest(result: Result, others: Mapping[str, Result]) -> tuple[str, list[str]]:
    """The result on the same data set that differs in least, by its name among ``others``, and in what it differs."""
    apart = {name: disagreements(result, one) for name, one in others.items() if one.dataset == result.dataset}
    nearest = min(apart, key=lambda name: len(apart[name]), default="")
    return nearest, apart.get(nearest, [])


def _why(result: Result, made: Sequence[Board], lone: Sequence[Result]) -> str:
    """Why a result compares with no other."""
    others = [*(board.results[0] for board in made), *(one for one in lone if one is not result)]
    nearest, apart = _nearest(result, {one.name: one for one in reversed(others)})
    return f"here and in {nearest}: {'; '.join(apart)}" if nearest else f"no other result is of {result.dataset}"


def _columns(results: Sequence[Result]) -> list[str]:
    extras = sorted({name for one in results for name in one.extras})
    return [name for name in (*MEASURES, *extras) if any(one.number(name) is not None for one in results)]


def _filled(board: Board, names: dict[int, str]) -> dict[str, Any]:
    """What ``board.html.j2`` shows."""
    columns, found = _columns(board.results), entries(board.results)
    verdicts = ", ".join(dict.fromkeys(part for one in board.results for part in one.verdict.split(", ")))
    return {
        "columns": [
            {"name": name, "lower": name in SCORE_WORDS and SCORE_WORDS[name].better == LOWER} for name in columns
        ],
        "title": board.title,
        "rows": [
            {
                **_links(one, names),
                "verdict": one.verdict,
                "kind": "good" if one.verdict == "ok" else "bad" if doubts(one.verdict) else "",
                "recipe": str(one.content["model"].get("recipe") or ""),
                "backbone": str(one.content["model"].get("backbone") or ""),
                "cells": [
                    {"name": name, "value": _sortable(one, name), "text": format_bounded(one, name)} for name in columns
                ],
            }
            for one in board.results
        ],
        "doubts": verdict_words(verdicts),
        "figures": [figure for alike in by_setting(found).values() for figure in figures(alike)],
    }


def _links(result: Result, names: dict[int, str]) -> dict[str, str]:
    """A result's name, and where its page, its file and its command are."""
    environment = result.content.get("environment")
    return {
        "name": result.name,
        "page": f"models/{names[id(result)]}.html",
        "file": f"results/{names[id(result)]}.json",
        "command": command(environment if isinstance(environment, dict) else {}),
    }


def _sortable(result: Result, name: str) -> str:
    """A number as the script sorts it; minimal ε beyond the largest radius comes above all."""
    value = result.number(name)
    return "" if value is None else "1e99" if isinf(value) else f"{value:.9g}"


def _file_names(results: Sequence[Result]) -> dict[int, str]:
    """A name for the files of each result, by its identity, made of plain letters; no two are alike in any case."""
    names: dict[int, str] = {}
    for result in results:
        text = f"{result.name}-{result.content.get('hash') or ''}"
        stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[-NAMED:].strip("-") or "model"
        count, name = 1, stem
        while name in names.values():
            count, name = count + 1, f"{stem}-{count + 1}"
        names[id(result)] = name
    return names
