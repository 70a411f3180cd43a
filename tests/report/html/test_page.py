"""The HTML page: whole, safe, true to the files, and made of whatever results there are."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdfast.report import find
from holdfast.report.html.charts import Series
from holdfast.report.html.entries import by_radius, by_setting, entries
from holdfast.report.html.sections import certified
from holdfast.report.published import SCORES
from holdfast.report.tables import setting_of
from tests.conftest import Call
from tests.helpers.html_page import page_of, sound
from tests.helpers.result_files import write


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
    looks = {(one.look.colour, one.look.shape) for one in entries(find(files))}
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
    assert page.sections == ["glance", "table", "checks", "repeat"]
    assert page.inside("h1") == ["Retrieval: mine"]
    assert "R@1 without attack" in page.inside("h4")
    assert "attack" not in page.inside("p")[1].replace("nothing was attacked", "")
    assert "unchecked" in page.text
    assert "50.0" in page.inside("text")


def test_odd_types_in_what_is_not_checked_when_read(tmp_path: Path) -> None:
    odd = write(
        tmp_path / "result.json",
        checks=[{"name": "new check", "passed": "perhaps", "detail": 3}, {"passed": False}],
        gauges={"mean_cosine": "high"},
        model={"remarks": "none"},
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
    assert "say nothing about robustness" in page.text
    assert any("flat ⚠ COLLAPSED" in title for title in page.inside("title"))


def test_weights_chosen_on_test_and_too_few_queries_are_said(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "a.json", name="picked", model={"weights": "best"}),
        write(tmp_path / "b.json", name="small", data={"attacked": 5}, **{"robust R@1": {"kept": 1, "queries": 5}}),
    )
    assert page.inside("text").count("picked ⚠ CHOSEN ON TEST") == 12
    assert {"CHOSEN ON TEST", "too few queries"} <= set(page.inside("span"))
    assert "best of several on this very test set" in page.text
    assert "12.0 ±1.0, 1 of 5" in page.inside("td")
    header = page.inside("th")
    assert header[header.index("name") :][:4] == ["name", "verdict", "robust R@1", "ERS"]


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


def test_robust_recall_never_rises_with_the_radius(tmp_path: Path) -> None:
    for eps, robust, score in ((0, 80, 50), (8, 20, 40), (16, 30, 60), (32, 10, 30)):
        measured = {"value": float(robust), "low": robust - 5.0, "high": robust + 5.0}
        ers = {"value": float(score), "low": score - 5.0, "high": score + 5.0}
        changes = {"robust R@1": measured, "ERS": ers, "settings": {"eps": eps / 255}}
        write(tmp_path / str(eps) / "result.json", **changes)
    titles = [title.partition("ε = ")[2] for title in page_of(tmp_path).inside("title")]
    for eps, robust in ((0, 80), (8, 20), (16, 20), (32, 10)):
        assert f"{eps}/255: {robust}.0 ({robust - 5}.0 to {robust + 5}.0)" in titles
    assert "16/255: 60.0 (55.0 to 65.0)" in titles


def bracket(certified: list[float], left: list[float] | None) -> dict[str, Any]:
    """``certified`` of a result at four radii."""
    radii = [
        {
            **{"radius": radius, "linf": radius / 28, "value": value, "low": max(0, value - 5), "high": value + 5},
            "attacked": None if left is None else {"value": left[i], "low": left[i] - 5, "high": left[i] + 5},
        }
        for i, (radius, value) in enumerate(zip((0.0, 0.25, 0.5, 1.0), certified, strict=True))
    ]
    known = {"sigma": 0.25, "draws": 1000, "alpha": 0.001, "largest": 0.6158, "queries": 64, "abstained": 3}
    return {**known, "radii": radii}


def test_what_is_certified_and_what_an_attack_leaves_enclose_the_truth(tmp_path: Path) -> None:
    write(
        tmp_path / "a" / "result.json", name="a", certified=bracket([80.0, 60.0, 40.0, 0.0], [85.0, 75.0, 70.0, 30.0])
    )
    write(tmp_path / "b" / "result.json", name="b", certified=bracket([50.0, 20.0, 10.0, 0.0], None))
    write(tmp_path / "c" / "result.json", name="c")
    (both, alone) = certified.fill(find([tmp_path]))["results"]
    low, high, truth = both["figure"].series
    assert corners(low) == [(0, 80), (0, 60), (0.25, 60), (0.25, 40), (0.5, 40), (0.5, 0), (1, 0)]
    assert corners(high) == [(0, 85), (0.25, 85), (0.25, 75), (0.5, 75), (0.5, 70), (1, 70), (1, 30)]
    assert [(p.low, p.high) for p in truth.points] == [(60, 85), (60, 85), (40, 75), (40, 75), (0, 70), (0, 70)]
    assert [one.name for one in alone["figure"].series] == ["certified"]
    page = page_of(tmp_path)
    assert "certified" in page.sections
    assert "radius 0.5: certified 40.0, left by an attack 70.0" in " ".join(page.inside("title"))
    assert "σ = 0.25; 64 queries, 1,000 noisy copies of each, which can certify up to 0.62; abstained: 3." in page.text
    assert {"60.0 ±5.0", "0.0 (0.0 to 5.0)", "75.0 ±5.0", "2.277/255", "–"} <= {
        text for tag, text in page.texts if tag == "td"
    }


def corners(series: Series) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in series.points]


def test_the_certified_curve_is_exact_where_the_radii_are_known(tmp_path: Path) -> None:
    radii = [0.0, 0.1, 0.1, 0.25, 0.3, 0.3, 0.7, 1.4]
    table = [100 * sum(radius > end for radius in radii) / 8 for end in (0, 0.25, 0.5, 1)]
    write(tmp_path / "a" / "result.json", certified=bracket(table, [90.0, 80.0, 70.0, 60.0]))
    lines = [
        {"id": i, "chosen": [], "before": {"hits": 60.0}, "after": {"radius": radius}, "moved": 0.0}
        for i, radius in enumerate(radii)
    ]
    (tmp_path / "a" / "records").mkdir()
    (tmp_path / "a" / "records" / "certified.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (one,) = certified.fill(find([tmp_path]))["results"]
    low, _, truth = one["figure"].series
    drawn = corners(low)
    assert (drawn[0], drawn[-1]) == ((0, table[0]), (1, table[-1]))
    for at in (0.05, 0.15, 0.2, 0.27, 0.4, 0.6, 0.9):
        (height,) = {y for (x, y), (after, _) in pairwise(drawn) if x < at < after}
        assert height == 100 * sum(radius > at for radius in radii) / 8
    assert all((point.low or 0) <= (point.high or 0) for point in truth.points)
    assert {0.1, 0.3, 0.7} <= {point.x for point in truth.points}


def test_a_band_has_a_band_for_a_key(tmp_path: Path) -> None:
    write(tmp_path / "result.json", certified=bracket([80.0, 60.0, 40.0, 0.0], [85.0, 75.0, 70.0, 30.0]))
    page = page_of(tmp_path)
    in_keys = [one for tag, one, around in page.elements if tag == "path" and "span" in around]
    assert [one["class"] for one in in_keys] == ["line", "line", "band"]


def test_without_certificates_there_is_no_section(tmp_path: Path) -> None:
    assert "certified" not in page_of(write(tmp_path / "result.json")).sections


def test_minimal_radii_are_curves_beside_each_other(tmp_path: Path) -> None:
    curve = [[77 * i / 640 / 255, 90.0 - 9 * i] for i in range(11)]
    for name, median in {"a": 4 / 255, "b": None}.items():
        minimal = {"queries": 4, "beyond": 1, "quartiles": [0.0, median, None], "curve": curve, "each": []}
        write(tmp_path / name / "result.json", name=name, **{"minimal eps": minimal})
    page = page_of(tmp_path)
    assert "minimal" in page.sections
    assert "Median minimal ε, which breaks half of the queries: a 4/255; b > 77/255." in page.text
    assert any("R@1 by ε" in text for text in page.inside("title"))
    write(tmp_path / "b" / "result.json")
    write(tmp_path / "a" / "result.json")
    assert "minimal" not in page_of(tmp_path).sections


def test_what_was_not_attacked_is_not_said_to_be(tmp_path: Path) -> None:
    settings = {"eps": 0.2, "steps": 32, "norm": "linf", "attacks": []}
    bare: dict[str, Any] = {**dict.fromkeys(("checks", "trusted", "ERS", "robust R@1")), "data": {"name": "mine"}}
    robust: dict[str, Any] = {"value": 0.0, "low": 0.0, "high": 10.9, "kept": 0, "queries": 32}
    robust["stages"] = [{"name": "margin", "tried": 31, "broke": 31, "passes": 9}]
    kinds = {"benign": {**bare, "settings": settings}, "worst": {**bare, "settings": settings | {"cascade": True}}}
    kinds["worst"]["robust R@1"] = robust
    for kind, changes in kinds.items():
        file = write(tmp_path / kind / "result.json", name=kind, protocol=kind, **changes)
        file.write_text(json.dumps({**json.loads(file.read_text()), "columns": {}, "settings": changes["settings"]}))
    benign, worst = (find([tmp_path / kind]) for kind in kinds)
    assert [str(setting_of(one)) for one in (*benign, *worst)] == [
        "mine: protocol benign",
        "mine: protocol worst, ε = 51/255",
    ]
    page = page_of(tmp_path / "benign")
    assert page.sections == ["glance", "table", "checks", "repeat"]
    assert "under attack" not in page.text
    page = page_of(tmp_path / "worst")
    shown = page.text.partition("The commands as given")[0]
    assert "32 steps" not in shown
    assert "mine: protocol worst, ε = 51/255" in shown
    assert "R@1, clean and under attack" in page.inside("h4")
    assert "96.9 → 0.0 (0.0 to 10.9)" in page.inside("text")
    assert "0.0 (0.0 to 10.9), 0 of 32" in page.inside("td")


def test_radii_with_fewer_attacks_join_the_curve_of_all_ten(tmp_path: Path) -> None:
    for folder, eps, kept in (("a8", 8, ("ES:R",)), ("a77", 77, ("ES:R",)), ("whole", 77, ("ES:R", "LTM"))):
        file = write(
            tmp_path / folder / "result.json", settings={"eps": eps / 255, "attacks": [*kept]}, model={"hash": "1a"}
        )
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "columns": {name: content["columns"][name] for name in kept}}))
    (line,) = by_radius(entries(find([tmp_path])))
    assert [(entry.eps, len(entry.group.first.content["columns"])) for entry in line] == [(8 / 255, 1), (77 / 255, 2)]
    assert "2 evaluations of the same models at other radii or with fewer attacks" in page_of(tmp_path).text


def test_what_an_attack_can_reach_is_said_where_it_is_less_than_the_radius(tmp_path: Path) -> None:
    for eps in (0, 77):
        settings = {"eps": eps / 255, "step": 3 / 255, "steps": 8}
        write(tmp_path / f"{eps}" / "result.json", settings=settings)
    assert "8 steps of 3/255 can reach 24/255: a larger radius is not fully used." in page_of(tmp_path).text


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
    doubts: set[str] = set()
    for file in runs.rglob("result.json"):
        content = json.loads(file.read_text())
        if content["settings"]["eps"] != 0.2:
            continue
        first, last = means(file, "before"), means(file, "after")
        for name, column in content["columns"].items():
            digits = 3 if name in ("TMA", "ES:D") else 1
            assert last[name] == pytest.approx(column["value"])
            shown = [f"{value:.{digits}f}" for value in (first[name], last[name], column["low"], column["high"])]
            doubt = ", not arrived" if content["further"].get(name, 0) > 1 else ""
            assert f"{shown[0]} → {shown[1]} ({shown[2]} to {shown[3]}){doubt}" in page.inside("text")
            doubts.add(doubt)
        assert all(check["name"] in page.inside("dt") for check in content["checks"])
        assert all(any(check["detail"] in text for text in page.inside("li")) for check in content["checks"])
    assert len(doubts) == 2
    assert "6 steps" in page.text
    assert (runs / "none-r" / "config.yaml").read_text() in page.source.replace("&#39;", "'")
    assert page.inside("caption") == ["none-r", "hm-s-lga-ics"] * 2
    pictures = page.of("img")
    assert len(pictures) == 2 * 2 * (6 + 7 + 7)
    clean = [one["src"] for one in pictures if one["alt"] == "the query, clean"]
    assert clean[0] == clean[1] != clean[2] == clean[3]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: (run / "model.safetensors").unlink(), "no ranked lists; "),
        (lambda run: (run / "model.safetensors").write_bytes(b"?"), "no ranked lists; "),
        (lambda run: (run / "config.json").write_text("[]"), "no ranked lists; "),
        (lambda run: (run / "config.yaml").write_text("recipes: act-r"), "no ranked lists; "),
        (lambda run: (run / "steps.jsonl").write_text("{]\n"), "The logs cannot be read: "),
        (lambda run: (run / "steps.jsonl").write_text("[1]\n"), "The logs cannot be read: "),
        (lambda run: (run / "steps.jsonl").write_text('{"step": 1, "loss": "?", "moved": NaN}\n'), "is damaged"),
        (lambda run: (run / "steps.jsonl").unlink(), "No steps logged."),
        (lambda run: (run / "environment.json").write_text("}"), "hm-s-lga-ics"),
        (
            lambda run: shutil.copy(run.parent / "none-r" / "model.safetensors", run),
            "have changed since the evaluation",
        ),
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
