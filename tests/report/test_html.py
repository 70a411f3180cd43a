"""The HTML page: whole, safe, true to the files, and made of whatever results there are."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from holdfast.evaluation.checks import CHECKS, PREPROCESSING
from holdfast.evaluation.evaluate import evaluate
from holdfast.models.embedder import Embedder
from holdfast.report import COMPARED, STYLES, find, html_text
from holdfast.report.figures import SCORES
from holdfast.report.html import words
from holdfast.report.html.charts import Axis, axis, brief, chart
from holdfast.report.html.curves import BINS, thinned
from holdfast.report.html.entries import by_radius, by_setting, entries, shortened
from holdfast.runs.config import resolve
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.result_files import write

VOID = {"meta", "img", "link", "base", "embed"}
LIMIT = 5_000_000


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, what is inside what, and texts by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.source = text
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [name for name, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [name for name, _ in self.open]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1][0] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [" ".join(text.split()) for name, text in self.texts if name == tag and text.strip()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(data.split()) for name, data in self.texts if name not in ("style", "title"))

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.of("section")]


def sound(text: str) -> Page:
    """A page, after all that every page has been found to be."""
    page = Page(text)
    assert len(text.encode()) < LIMIT
    for tag, attributes, _ in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not {"srcset", "data", "poster", "background", "action"} & attributes.keys()
    assert not re.search(r"@import|url\(|https?://", "".join(page.inside("style")))
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"])[1:] for attributes in page.of("a")]
    assert set(links) <= set(ids)
    assert {section for section in page.sections if section} <= set(links)
    for attributes in page.of("svg"):
        assert attributes.get("aria-hidden") or (attributes.get("role") == "img" and attributes.get("aria-label"))
    drawings = [one for one in page.of("svg") if one.get("role") == "img"]
    titles = [around for tag, _, around in page.elements if tag == "title" and around[-1] == "svg"]
    assert len(drawings) == len(titles) == len(page.of("figcaption")) == len(page.of("figure"))
    assert all("figure" in around for around in titles)
    assert all(attributes.get("alt") for attributes in page.of("img"))
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", " ".join(paths(page)))
    return page


def paths(page: Page) -> Iterator[str]:
    for attributes in page.of("path"):
        yield from (attributes.get("d") or "", attributes.get("transform") or "")


def page_of(*files: Path, **options: Any) -> Page:
    return sound(html_text(find(files), **{"pictures": 0, **options}))


# ---- whatever results there are -------------------------------------------------------------------------------------


def test_one_result_and_nothing_beside_it(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "result.json"))
    assert page.sections == ["glance", "table", "scores", "costs", "checks", "repeat"]
    assert "1 evaluation of 1 model:" in page.text
    assert "there are no records beside these results" in page.text
    assert "The results below do not say which command made them." in page.text
    for i, name in enumerate(SCORES, start=1):
        digits = 3 if name in ("TMA", "ES:D") else 1
        assert f"{i:.{digits}f} ({i - 0.5:.{digits}f} to {i + 0.25:.{digits}f})" in page.inside("text"), name
    assert "63.3 (62.5 to 64.1)" in page.inside("text")
    assert "78.6 → 12.0 (11.0 to 13.0)" in page.inside("text")
    assert "Zhou" not in page.text
    assert "robrank" in page.text  # Fashion-MNIST has published rows


def test_many_results_of_other_data_sets_each_with_a_look_of_its_own(tmp_path: Path) -> None:
    names = [f"model-{i}" for i in range(10)]
    files = [write(tmp_path / f"{name}.json", name=name) for name in names]
    files += [write(tmp_path / "cub.json", name="bird", data={"name": "cub"}, model={"backbone": "resnet18"})]
    page = page_of(*files)
    assert "11 evaluations of 11 models" in page.text
    assert set(names) <= set(page.inside("text"))
    assert "fashion-mnist: protocol strict, ε = 77/255, 32 steps" in page.inside("h3")
    assert "cub: protocol strict, ε = 77/255, 32 steps" in page.inside("h3")
    looks = {(one.look.colour, one.look.mark) for one in entries(find(files))}
    assert len(looks) == len(files)


def test_sections_that_are_missing_are_missing(tmp_path: Path) -> None:
    bare = write(
        tmp_path / "result.json",
        **dict.fromkeys(("checks", "trusted", "ERS", "robust R@1", "hash")),
        benign={"R@1": 50.0},
        data={"name": "mine"},
    )
    content = json.loads(bare.read_text())
    content.update(columns={}, settings={}, model={})
    bare.write_text(json.dumps(content))
    page = page_of(bare)
    assert "No attack was tried." in page.text
    assert "unchecked" in page.text
    assert "50.0" in page.inside("text")


def test_odd_types_in_what_is_not_checked_when_read(tmp_path: Path) -> None:
    odd = write(
        tmp_path / "result.json",
        checks=["?", {"name": "new check", "passed": "perhaps", "detail": 3}, {"passed": False}],
        gauges={"mean_cosine": "high"},
        model={"remarks": "none", "recipe": ["act"], "training_steps": "eight", "hash": {"a": 1}},
        environment="unknown",
        settings={"step": "small"},
    )
    page = page_of(odd)
    assert "new check" in page.inside("dt")
    assert "not done" in page.text


def test_collapsed_and_untrusted_results_are_marked_wherever_they_are_drawn(tmp_path: Path) -> None:
    bad = {"name": "zero", "passed": False, "detail": "the gradient is zero"}
    page = page_of(
        write(
            tmp_path / "a.json", name="flat", collapsed=True, gauges={"mean_cosine": 0.99991, "effective_rank": 1.23}
        ),
        write(tmp_path / "b.json", name="masked", trusted=False, checks=[bad]),
        write(tmp_path / "c.json", name="fine"),
    )
    assert page.inside("text").count("flat ⚠ COLLAPSED") == page.inside("text").count("masked ⚠ UNTRUSTED") == 12
    assert page.inside("text").count("fine") == 12
    assert {"COLLAPSED", "UNTRUSTED", "ok", "FAILED"} <= set(page.inside("span"))
    assert "0.9999" in page.text
    assert "says nothing of robustness" in page.text
    assert any("flat ⚠ COLLAPSED" in title for title in page.inside("title"))


def test_text_of_files_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&<b>"
    folder = tmp_path / "run <i> & 'q' \"ü\" {{ 1 + 1 }}"
    path = write(
        folder / "result.json",
        name=evil,
        data={"name": f"data{evil}"},
        protocol=f"strict{evil}",
        model={"recipe": evil, "remarks": [evil]},
        checks=[{"name": evil, "passed": True, "detail": evil}],
        environment={"command": ["holdfast", evil], "platform": evil},
    )
    page = page_of(path)
    assert evil in page.inside("dt")
    assert not page.of("b") or all(not attributes for attributes in page.of("b"))
    assert any("{{ 1 + 1 }}" in text for text in page.inside("p"))
    assert "<script" not in page.source


def test_seeds_are_one_row_and_a_copy_is_another(tmp_path: Path) -> None:
    for i, (seed, value) in enumerate(((0, 20.0), (1, 26.0), (1, 80.0))):
        training = {"settings": {"recipe": "act-r", "seed": seed}, "passes": 1e6, "seconds": 9.0}
        write(
            tmp_path / f"{i}" / "result.json",
            name=f"act-r,seed={seed}",
            ERS={"value": value, "low": value - 1, "high": value + 1},
            model={"seed": seed, "training": training},
        )
    page = page_of(tmp_path)
    half = 12.7062 * 18**0.5 / 2**0.5
    assert any(text.startswith(f"23.0 ({23 - half:.1f} to {23 + half:.1f}") for text in page.inside("text"))
    assert "80.0 (79.0 to 81.0)" in page.inside("text")


# ---- figures --------------------------------------------------------------------------------------------------------


def test_published_rows_stand_beside_ours(tmp_path: Path) -> None:
    training = {"settings": {"recipe": "act-r"}, "passes": 1_234_567.0, "seconds": 9.0}
    page = page_of(write(tmp_path / "result.json", model={"training_steps": 8, "training": training}))
    titles = page.inside("title")
    assert "published, ACT[R], η = 32: ERS 63.3" in titles
    assert "fashion-act: ERS 63.3 (62.5 to 64.1) at 9.0" in titles
    assert "fashion-act: robust R@1 12.0 (11.0 to 13.0) at 1,234,567" in titles
    assert sum("hollow" in (attributes.get("class") or "") for attributes in page.of("path")) >= 6


def test_radii_of_one_model_are_a_curve_and_one_of_them_stands_for_it(tmp_path: Path) -> None:
    for name, radii in {"a": (0, 8, 77), "b": (0, 8, 77), "c": (8,)}.items():
        for eps in radii:
            value = {"value": 90.0 - eps, "low": 89.0 - eps, "high": 91.0 - eps}
            write(tmp_path / f"{name}{eps}" / "result.json", name=name, settings={"eps": eps / 255}, ERS=value)
    found = find([tmp_path])
    assert [(str(setting), len(alike)) for setting, alike in by_setting(entries(found)).items()] == [
        ("fashion-mnist: protocol strict, ε = 8/255, 32 steps", 3)
    ]
    page = page_of(tmp_path)
    assert "radii" in page.sections
    for eps in (0, 8, 77):
        assert f"a, ε = {eps}/255: {90 - eps:.1f} ({89 - eps:.1f} to {91 - eps:.1f})" in page.inside("title")
    assert not any(text.startswith("c, ε") for text in page.inside("title"))
    assert "4 evaluations of the same models at other radii or with fewer attacks" in page.text


def test_radii_with_fewer_attacks_join_the_curve_of_all_ten(tmp_path: Path) -> None:
    for folder, eps, kept in (("a8", 8, ("ES:R",)), ("a77", 77, ("ES:R",)), ("whole", 77, ("ES:R", "LTM"))):
        file = write(
            tmp_path / folder / "result.json", settings={"eps": eps / 255, "attacks": [*kept]}, model={"hash": "1a"}
        )
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "columns": {name: content["columns"][name] for name in kept}}))
    (line,) = by_radius(entries(find([tmp_path])))
    assert [(entry.eps, len(entry.result.content["columns"])) for entry in line] == [(8 / 255, 1), (77 / 255, 2)]
    assert "2 evaluations of the same models at other radii or with fewer attacks" in page_of(tmp_path).text


def test_what_an_attack_can_reach_is_said_where_it_is_less_than_the_radius(tmp_path: Path) -> None:
    for eps in (0, 77):
        settings = {"eps": eps / 255, "step": 3 / 255, "steps": 8}
        write(tmp_path / f"{eps}" / "result.json", settings=settings)
    assert "8 steps of 3/255 reach 24/255: larger radii are not used up." in page_of(tmp_path).text


@pytest.mark.parametrize(
    ("low", "high", "log", "texts"),
    [
        (0, 100, False, ["0", "25", "50", "75", "100"]),
        (-0.4, 0.1, False, ["-0.4", "-0.2", "0"]),
        (1, 40, True, ["1", "3", "10", "30"]),
        (2.0e6, 3.0e6, True, ["2M", "3M"]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, texts: list[str]) -> None:
    one = Axis("", low, high, 10, 110, log)
    assert [text for _, text in one.ticks] == texts
    assert all(10 <= place <= 110 for place, _ in one.ticks)


def test_axes_have_room_for_every_value() -> None:
    for values in ([], [3.0], [0.0, 0.0], [-5.0, 120.0], [1e-9, 2e-9]):
        one = axis("", values, 0, 100, low=0, high=100)
        assert one.low < one.high
        assert all(one.low <= value <= one.high for value in values)
        assert one.ticks
    assert chart("", [], "x", "y", log=True).x.ticks


def test_thinning_keeps_means_ends_and_extremes() -> None:
    points = [(float(i), ((7919 * i) % 1000) / 1000) for i in range(12_345)]
    points[6789] = (6789.0, 50.0)
    points[4321] = (4321.0, -50.0)
    curve = thinned(points)
    assert len(curve) == BINS
    assert max(point.high or 0 for point in curve) == 50.0
    assert min(point.low or 0 for point in curve) == -50.0
    size = len(points) / BINS
    first = [y for _, y in points[: round(size)]]
    assert curve[0].y == pytest.approx(fmean(first))
    assert (curve[0].low, curve[0].high) == (min(first), max(first))
    assert thinned(points[:3]) == thinned(points[:3], 1000)
    assert [(point.x, point.y) for point in thinned(points[:3])] == points[:3]


def test_what_all_names_have_in_common_is_left_out() -> None:
    long = ["act-r,steps=80,seed=0", "hm-s-m,steps=80,seed=0", "hm-s-m,steps=90,seed=0"]
    assert list(shortened(long).values()) == ["act-r,steps=80", "hm-s-m,steps=80", "hm-s-m,steps=90"]
    assert shortened(["act-r,seed=0"]) == {"act-r,seed=0": "act-r,seed=0"}
    assert shortened(["a", "a,b"]) == {"a": "a", "a,b": "a,b"}
    assert brief("abcdefghij", 7) == "abc…hij"
    assert brief("abcdefg", 7) == "abcdefg"


def test_every_check_and_score_has_its_words() -> None:
    assert list(words.CHECKS) == [*CHECKS, PREPROCESSING]
    assert tuple(words.SCORES) == SCORES


# ---- run folders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain and a hardened run over the digits, each evaluated at two radii."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("none-r", "hm-s-lga-ics"):
        settings = {"recipe": recipe, "model.dim": 16, "batch.pairs": 24, "steps": 6, "pgd.steps": 2}
        train(resolve({**settings, "validation.every": 1, "validation.attacked": 8}), folder / recipe, quiet=True)
        for eps in (0.05, 0.2):
            evaluate(folder / recipe, eps=eps, steps=2, max_queries=12, checks=eps == 0.2, device="cpu", quiet=True)
    return folder


def means(result: Path, when: str) -> dict[str, float]:
    """Readings of the records beside a result, recomputed."""
    values: dict[str, list[float]] = {}
    for file in (result.parent / "records").glob("*.jsonl"):
        for line in file.read_text().splitlines():
            for name, value in json.loads(line)[when].items():
                values.setdefault(name, []).append(value)
    return {name: sum(known) / len(known) for name, known in values.items()}


def test_a_page_end_to_end(call: Call, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call("report", runs / "none-r", runs / "hm-s-lga-ics", "--format", "html", "--pictures", "2")
    assert (status, err) == (0, "")
    assert out.endswith("written to report.html\n")
    page = sound((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.sections == ["glance", "table", "scores", "costs", "radii", "training", "rankings", "checks", "repeat"]
    for file in runs.rglob("result.json"):
        content = json.loads(file.read_text())
        if content["settings"]["eps"] != 0.2:
            continue
        first, last = means(file, "before"), means(file, "after")
        for name, column in content["columns"].items():
            digits = 3 if name in ("TMA", "ES:D") else 1
            assert last[name] == pytest.approx(column["value"])
            shown = [f"{value:.{digits}f}" for value in (first[name], last[name], column["low"], column["high"])]
            assert f"{shown[0]} → {shown[1]} ({shown[2]} to {shown[3]})" in page.inside("text")
        assert all(check["name"] in page.inside("dt") for check in content["checks"])
        assert all(any(check["detail"] in text for text in page.inside("li")) for check in content["checks"])
    assert "6 steps" in page.text
    assert (runs / "none-r" / "config.yaml").read_text() in page.source.replace("&#39;", "'")
    assert page.inside("caption") == ["none-r", "hm-s-lga-ics"] * 2
    pictures = page.of("img")
    assert len(pictures) == 2 * 2 * (6 + 7 + 7)
    clean = [one["src"] for one in pictures if one["alt"] == "the query, as it is"]
    assert clean[0] == clean[1] != clean[2] == clean[3]


def test_pictures_show_what_the_library_finds(runs: Path) -> None:
    from holdfast.report.html.pictures import CLEAN, ask
    from holdfast.report.html.runs import sources

    (source,) = sources(find([runs / "none-r"]))
    answers = ask(source, 3, None, {"eps": 0.2, "step": 0.1, "steps": 2, "norm": "linf"})
    gallery, queries = answers.target.system.gallery, answers.queries
    embed = Embedder.from_pretrained(runs / "none-r")
    for name, images in answers.images.items():
        assert (images - answers.images[CLEAN]).abs().max() <= 0.2 + 1e-6
        with torch.no_grad():
            distances = torch.cdist(embed(images), gallery.embeddings)
        distances[queries.ids[:, None] == gallery.ids] = torch.inf
        expected = distances.gather(1, answers.found[name])
        assert torch.allclose(expected, distances.sort(dim=1).values[:, :5], atol=1e-3)
    assert not torch.equal(answers.images["es"], answers.images[CLEAN])


def test_pictures_stop_where_the_page_would_grow_too_large(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.report.html.pictures.ROOM", 10_000)
    page = page_of(runs / "none-r", pictures=6)
    left = [int(text.split()[0]) for text in page.inside("p") if "left out, to keep the page small" in text]
    assert left and 0 < left[0] < 6  # noqa: PT018
    assert len(page.of("img")) == (6 - left[0]) * 20


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: (run / "model.safetensors").unlink(), "no ranked lists; "),
        (lambda run: (run / "model.safetensors").write_bytes(b"?"), "no ranked lists; "),
        (lambda run: (run / "config.json").write_text("[]"), "no ranked lists; "),
        (lambda run: (run / "config.yaml").write_text("recipes: act-r"), "no ranked lists; "),
        (lambda run: (run / "steps.jsonl").write_text("{]\n"), "What it logged cannot be read: "),
        (lambda run: (run / "steps.jsonl").write_text("[1]\n"), "What it logged cannot be read: "),
        (lambda run: (run / "steps.jsonl").write_text('{"step": 1, "loss": "?", "moved": NaN}\n'), "1 steps, "),
        (lambda run: (run / "steps.jsonl").unlink(), "No steps logged."),
        (lambda run: (run / "environment.json").write_text("}"), "hm-s-lga-ics"),
        (lambda run: shutil.copy(run.parent / "none-r" / "model.safetensors", run), "no longer those that were"),
    ],
)
def test_what_cannot_be_read_is_said_and_all_else_is_there(runs: Path, tmp_path: Path, harm: Any, message: str) -> None:
    for name in ("none-r", "hm-s-lga-ics"):
        shutil.copytree(runs / name, tmp_path / name)
    harm(tmp_path / "hm-s-lga-ics")
    page = page_of(tmp_path / "hm-s-lga-ics", pictures=1)
    assert message in page.text
    assert {"glance", "scores", "radii", "training", "checks", "repeat"} <= set(page.sections)


def test_records_that_are_damaged_are_left_alone(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "none-r", tmp_path / "run")
    for file in (tmp_path / "run").rglob("ltm.jsonl"):
        file.write_text("{]\n")
    page = page_of(tmp_path)
    assert "there are no records beside these results" in page.text
    assert not page.of("img")


def test_long_training_is_thinned(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "none-r", tmp_path / "run")
    lines = [
        json.dumps({"step": i, "epoch": 1, "loss": 1 / i, "passes": 2.0, "seconds": 0.1}) for i in range(1, 20_001)
    ]
    (tmp_path / "run" / "steps.jsonl").write_text("\n".join(lines) + "\n")
    page = page_of(tmp_path)
    assert "20,000 steps, 40,000 image passes, 2,000 seconds" in page.text
    assert max(len(path) for path in paths(page)) < 5_000
    with (runs / "none-r" / "epochs.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    assert any(f"to {float(row['R@1']):.3g}; under shift" in title for title in page.inside("title"))


# ---- the command ----------------------------------------------------------------------------------------------------


def test_other_formats_are_written_too(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "result.json")
    for style in ("markdown", "csv", "json"):
        out = tmp_path / "new" / f"table.{style}"
        assert call("report", path, "--format", style, "--out", out) == (0, f"written to {out}\n", "")
        assert out.read_text(encoding="utf-8") == STYLES[style](find([path]))
    out = tmp_path / "page.html"
    options = ("--published", "--format", "html", "--pictures", "0")
    assert call("report", path, *options, "--out", out)[0] == 0
    assert out.read_text(encoding="utf-8") == COMPARED["html"](find([path]), pictures=0)


def test_what_does_not_go_together_is_refused(refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "result.json")
    assert "--pictures goes with --format html" in refused("report", path, "--pictures", "2")
    assert "--root goes with --format html" in refused("report", path, "--root", tmp_path, "--format", "csv")
    assert "--columns goes with --format markdown" in refused("report", path, "--format", "html", "--columns", "ERS")
    assert "at least 0, not -1" in refused("report", path, "--format", "html", "--pictures", "-1")
    assert "is a folder; try" in refused("report", path, "--format", "html", "--out", tmp_path)
    assert "did you mean 'html'?" in refused("report", path, "--format", "htm")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("report", path, "--out", tmp_path / "file" / "table.md")
    with pytest.raises(HoldfastError, match="at least 0"):
        html_text(find([path]), pictures=-1)
