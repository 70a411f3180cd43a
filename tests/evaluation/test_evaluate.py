"""Evaluations of any model on any test set: what is accepted, what is refused, and what the result says of it."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.data import Pixels, held_out
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import COLUMNS, ers
from holdfast.evaluation.records import read_benign
from holdfast.evaluation.saving import attack
from holdfast.metrics.retrieval import retrieval_metrics as retrieve
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel
from holdfast.report import Result, find
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import NINE, QUICK, digits, embedder, pair, photos, records, rows, sided, snapshot

EMBEDDER = embedder()
"""Looked at only; a test that changes a model makes its own."""

CHECKED = {**QUICK, "max_queries": 32, "steps": 6, "checks": True}
PREPROCESSING = "the model's preprocessing"


def plain(images: Tensor) -> Tensor:
    """The embedder as a function."""
    z: Tensor = EMBEDDER(images)
    return z


# --- the result


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """An ordinary model, with its checks."""
    options = {"name": "tiny", "about": {"recipe": "none"}, "folder": tmp_path_factory.mktemp("checked"), **CHECKED}
    return evaluate(EMBEDDER, digits(), **options)


def test_a_result_is_a_file_that_reports_read(checked: Result) -> None:
    assert checked.path is not None
    assert checked.path.name == "result.json"
    assert checked.path.parent.name == f"strict-{checked.content['hash']}"
    assert json.loads(checked.path.read_text()) == checked.content
    assert [found.content for found in find([checked.path.parents[1]])] == [checked.content]
    assert (checked.name, checked.dataset, checked.verdict) == ("tiny", "digits", "ok")
    assert all(one["passed"] is True for one in checked.content["checks"])
    assert checked.content["model"]["recipe"] == "none"
    assert checked.content["model"]["dim"] == 16
    assert checked.content["model"]["remarks"] == ["outputs are of unit length already"]
    data = {"name": "digits", "queries": 100, "gallery": 100, "classes": 10, "size": 8, "attacked": 32}
    assert checked.content["data"].items() >= data.items()
    settings = {"protocol": "strict", "attacks": list(NINE), "eps": 77 / 255, "steps": 6, "max_queries": 32, "seed": 0}
    assert checked.content["settings"].items() >= settings.items()
    assert checked.content["protocol_version"] == 6
    assert torch.__version__.startswith(checked.content["environment"]["libraries"]["torch"])


def test_every_query_has_its_scores_without_attack(checked: Result) -> None:
    assert checked.path is not None
    found = read_benign(checked.path.parent)
    assert [line["id"] for line in found] == list(range(100))
    for name in ("R@1", "R@2", "R@4", "R@8", "mAP", "mAP@R", "R-Precision"):
        mean = np.mean([line["scores"][name] for line in found])
        assert mean == pytest.approx(checked.content["benign"][name], abs=1e-5)


def test_scores_are_those_of_the_records(checked: Result) -> None:
    assert checked.path is not None
    for column in COLUMNS:
        found = [one["after"][column.name] for one in rows(checked.path.parent / f"records/{column.attack}.jsonl")]
        score = checked.content["columns"][column.name]
        assert score["value"] == pytest.approx(np.mean(found))
        assert score["low"] <= score["value"] <= score["high"]
        assert score["queries"] == len(found) == 32
    values = {name: score["value"] for name, score in checked.content["columns"].items()}
    assert checked.number("ERS") == pytest.approx(ers(values))
    robust = checked.number("least R@1")
    assert robust is not None
    assert 0 <= robust <= min(values["ES:R"], values["LTM"], values["GTM"])


def test_benign_metrics_are_over_the_whole_set(checked: Result) -> None:
    embedded = embed_dataset(WrappedModel(EMBEDDER), digits(), torch.device("cpu"))
    expected = retrieve(embedded.queries, embedded.gallery)
    assert checked.content["benign"].items() >= expected.items()
    assert checked.content["benign"]["queries"] == 100
    assert checked.content["benign"]["unreadable"] == 0
    assert 0 < checked.content["benign"]["NMI"] <= 100
    assert set(checked.content["gauges"]) == {"mean_cosine", "effective_rank"}
    benign = evaluate(EMBEDDER, digits(), "benign", quiet=True, device="cpu")
    assert benign.content["benign"] == checked.content["benign"]
    assert (benign.content["columns"], benign.content["ERS"], benign.content["data"]["attacked"]) == ({}, None, 0)
    assert benign.content["cost"] == {"forward": 0, "backward": 0, "asked": 0, "seconds": 0}


def test_before_attacking_it_says_how_long_that_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves a second at each look: 1 / (3 x 12) seconds for a step of an image."""
    clock = count()
    monkeypatch.setattr("holdfast.evaluation.runner.time.monotonic", lambda: float(next(clock)))
    settings = {**QUICK, "steps": 100, "eps": 0.0, "attacks": ("es", "ltm", "gtm")}
    loud = evaluate(embedder(), digits(), folder=tmp_path / "loud", **{**settings, "quiet": False})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("3 attacks", "attacking"))]
    assert lines[0] == "3 attacks: about 2 min"
    assert lines[-1].startswith("attacking: 36/36")
    quiet = evaluate(embedder(), digits(), folder=tmp_path / "quiet", **settings)
    assert loud.content["columns"] == quiet.content["columns"]
    assert not capsys.readouterr().out
    evaluate(embedder(), digits(), folder=tmp_path / "loud", **{**settings, "quiet": False})
    assert "about" not in capsys.readouterr().out, "nothing is left to do"


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = evaluate(EMBEDDER, digits(), attacks="es", **QUICK)
    assert result.path is None
    assert not [*tmp_path.iterdir()]
    assert json.loads(json.dumps(result.content)) == result.content


# --- what is accepted


def test_modules_functions_pixels_and_arrays_score_the_same() -> None:
    settings = {**QUICK, "eps": 77 / 255, "max_queries": 8, "attacks": ("ca-", "qa+", "es")}
    module = evaluate(EMBEDDER, digits(), **settings).content
    colours = np.repeat(pair()[0][..., None], 3, axis=3)
    inputs: list[tuple[Any, Any]] = [
        (plain, digits()),
        (EMBEDDER, pair()),
        (EMBEDDER, (torch.from_numpy(pair()[0]), torch.from_numpy(pair()[1]))),
        (EMBEDDER, (pair()[0], [f"digit {label}" for label in pair()[1]])),
        (lambda x: plain(x[:, :1]), (colours, pair()[1])),
    ]
    for embed, data in inputs:
        found = evaluate(embed, data, **settings).content
        assert (found["columns"], found["benign"]) == (module["columns"], module["benign"])


# --- models with a mistake


def test_without_gradients_attacks_that_need_them_are_refused(tmp_path: Path) -> None:
    embed = torch.no_grad()(plain)
    advice = r"gradient of the embeddings does not reach the pixels.*\.detach\(\) or numpy, or use a black-box attack"
    with pytest.raises(HoldfastError, match=advice):
        evaluate(embed, digits(), folder=tmp_path, **QUICK)
    with pytest.raises(HoldfastError, match=advice):
        attack(embed, digits(), "es", tmp_path / "adv", quiet=True, device="cpu")
    with pytest.raises(HoldfastError, match=advice):
        evaluate(EMBEDDER, digits(), folder=tmp_path, surrogate=embed, **QUICK)
    assert not [*tmp_path.iterdir()]


def test_without_gradients_attacks_through_another_model_and_none_work() -> None:
    embed, settings = torch.no_grad()(plain), {**QUICK, "attacks": "ltm"}
    through = evaluate(embed, digits(), surrogate=EMBEDDER, **settings).content
    assert through["columns"] == evaluate(EMBEDDER, digits(), **settings).content["columns"]
    assert evaluate(embed, digits(), "benign", quiet=True, device="cpu").content["columns"] == {}


def normalised(images: Tensor) -> Tensor:
    return (images - 0.1307) / 0.3081


@pytest.mark.parametrize(
    ("embed", "fault"),
    [
        (lambda x: plain(normalised(normalised(x))), "they look normalised twice; subtract the mean and divide by"),
        (lambda x: plain(x / 255), "divided by 255 inside although it is given pixels in"),
    ],
    ids=["twice", "divided"],
)
def test_a_fault_of_the_preprocessing_makes_the_result_untrusted(embed: Any, fault: str, tmp_path: Path) -> None:
    checked = evaluate(embed, digits(), folder=tmp_path, attacks="es", **{**CHECKED, "steps": 2, "max_queries": 8})
    assert checked.content["trusted"] is False
    assert "UNTRUSTED" in checked.verdict
    (seen,) = (one for one in checked.content["checks"] if one["name"] == PREPROCESSING)
    assert seen["passed"] is False
    assert fault in seen["detail"]
    attacked = {**QUICK, "steps": 1, "max_queries": 2}
    for settings in (attacked, {"protocol": "benign", "quiet": True}):
        unchecked = evaluate(embed, digits(), **settings)
        assert unchecked.content["trusted"] is False
        assert "UNTRUSTED" in unchecked.verdict
        assert any(fault in remark for remark in unchecked.content["model"]["remarks"])


# --- collapsed models

CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "times zero plus one": lambda x: plain(x) * 0 + 1,
    "zeros": lambda x: torch.zeros(len(x), 4),
}


@pytest.mark.parametrize(("constant", "protocol"), [("times zero plus one", "cvpr22"), ("zeros", "strict")])
def test_a_constant_model_is_collapsed(constant: str, protocol: str, tmp_path: Path) -> None:
    checks = protocol == "strict"
    settings = {**QUICK, "max_queries": 8, "folder": tmp_path, "checks": checks}
    result = evaluate(CONSTANTS[constant], digits(40), protocol, **settings)
    assert result.content["collapsed"] is True
    assert "COLLAPSED" in result.verdict
    assert result.content["benign"]["R@1"] < 20
    if "times" in constant:
        assert list(result.content["columns"]) == [column.name for column in COLUMNS]
        assert result.content["columns"]["ES:D"]["value"] == 0
        assert result.content["columns"]["QA+"]["value"] == pytest.approx(50, abs=3)
        assert result.content["columns"]["ES:R"]["value"] < 20
    else:
        assert (result.content["columns"], result.content["ERS"]) == ({}, None)
        assert result.content["settings"]["attacks"] == []
        assert any("no attack was tried" in remark for remark in result.content["model"]["remarks"])
    left = snapshot(tmp_path)
    assert evaluate(CONSTANTS[constant], digits(40), protocol, **settings).content == result.content
    assert snapshot(tmp_path) == left


def test_a_constant_model_without_gradients_can_be_attacked_by_black_boxes() -> None:
    result = evaluate(CONSTANTS["zeros"], digits(40), gradient="square", **QUICK)
    assert "COLLAPSED" in result.verdict
    assert result.content["columns"]["ES:D"]["value"] == 0


def test_a_sample_that_looks_collapsed_is_not_enough(tmp_path: Path) -> None:
    """Every third image, the sample among them, is black; the model has no gradient but is not collapsed."""
    images, labels = pair(96)
    images = images.copy()
    sample = torch.linspace(0, 95, 32).long().numpy()
    images[sample] = 0
    with pytest.raises(HoldfastError, match="does not reach the pixels"):
        evaluate(torch.no_grad()(plain), (images, labels), folder=tmp_path, eps=0.1, **QUICK)
    assert not [*tmp_path.iterdir()]


# --- what is refused

IMAGES, LABELS = pair(40)


def folder_of(*broken: str) -> Callable[[Path], Pixels]:
    """Photos of four classes, with these files damaged."""

    def make(place: Path) -> Pixels:
        root = photos(place / "photos", each=2)
        for pattern in broken:
            for file in root.glob(pattern):
                file.write_bytes(b"no image")
        return Pixels(held_out("folder", root), 8, channels=1)

    return make


def without_queries(_: Path) -> Pixels:
    return sided([0, 1] * 20, [False] * 40, [True] * 40)


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "batch": (plain, None, {"batch": 0}, "batch is at least 1 image, not 0"),
    "nan for one image": (
        lambda x: plain(x) / (x != torch.from_numpy(IMAGES[4] / 255).float()).flatten(1).any(1)[:, None],
        None,
        {},
        r"NaN or infinite embeddings; first for images test\[4\]",
    ),
    "floats": (plain, (IMAGES / 255, LABELS), {}, r"uint8.*not float64 of shape.*astype\('uint8'\) makes them"),
    "oblong": (plain, (IMAGES[:, :6], LABELS), {}, "square, not 6x8"),
    "no pair": (plain, IMAGES, {}, r"a pair \(images, labels\), not ndarray"),
    "one class": (plain, (IMAGES, LABELS * 0), {}, "the test gallery is of one class"),
    "one class, no attack": (
        plain,
        (IMAGES, LABELS * 0),
        {"protocol": "benign"},
        "the test gallery is of one class",
    ),
    "NaN labels": (
        plain,
        (IMAGES, np.where(LABELS == 1, np.nan, LABELS)),
        {},
        "labels name no class, the first at row",
    ),
    "no queries": (plain, without_queries, {}, "nothing to evaluate, there is no readable image in the queries"),
    "all broken": (plain, folder_of("*/*.png"), {}, "fewer than two of 8 images tried can be read.*a/0.png"),
    "matches broken": (plain, folder_of("*/1.png"), {}, "none of the 4 queries has another item of its class"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_evaluated_is_one_clear_line_and_nothing_is_lost(case: str, tmp_path: Path) -> None:
    embed, data, settings, message = REFUSED[case]
    given = data(tmp_path) if callable(data) else (IMAGES, LABELS) if data is None else data
    (tmp_path / "out" / "strict-01234567" / "records").mkdir(parents=True)
    (tmp_path / "out" / "strict-01234567" / "records" / "es.jsonl").write_text('{"id": 0}\n')
    before = snapshot(tmp_path)
    with pytest.raises(HoldfastError, match=message) as caught:
        evaluate(embed, given, folder=tmp_path / "out", **{**QUICK, "eps": 0.1, **settings})
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["strict-01234567"]


def test_copies_and_what_was_left_out_are_remarks(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", each=3)
    (root / "b/copy.png").write_bytes((root / "a/0.png").read_bytes())
    (root / "b/x.heic").touch()
    (root / "c/0.png").write_bytes(b"no image")
    result = evaluate(EMBEDDER, Pixels(held_out("folder", root), 8, channels=1), "benign", quiet=True, device="cpu")
    _, left, unreadable, copies = result.content["model"]["remarks"]
    assert left == "left out of the data: 1 file with the ending .heic, which is not read, the first is b/x.heic"
    assert unreadable.startswith("left out of the data: 1 image that cannot be read, the first is c/0.png (the file is")
    assert copies.startswith("2 images have a copy, the same pixel for pixel, such as a/0.png and b/copy.png: ")


def test_an_unreadable_image_is_left_out_and_counted(tmp_path: Path) -> None:
    """Of class a one of three is broken: two remain; of class b the match of the first is, and it is not attacked."""
    root = photos(tmp_path / "photos", each=3)
    for broken in ("a/1.png", "b/1.png", "b/2.png"):
        (root / broken).write_bytes(b"no image")
    pixels = Pixels(held_out("folder", root), 8, channels=1)
    result = evaluate(plain, pixels, folder=tmp_path / "out", **{**QUICK, "max_queries": None})
    assert result.path is not None
    assert result.content["benign"]["unreadable"] == 3
    assert (result.content["benign"]["queries"], result.content["benign"]["queries_without_match"]) == (8, 1)
    assert result.content["data"]["attacked"] == 8
    for attacked in NINE:
        found = rows(result.path.parent / f"records/{attacked}.jsonl")
        assert [record["id"] for record in found] == [0, 2, 6, 7, 8, 9, 10, 11]
        assert not {1, 4, 5} & {i for record in found for i in record["chosen"]}


def test_pictures_of_the_same_names_are_other_data(tmp_path: Path) -> None:
    settings = {**QUICK, "attacks": "ltm", "steps": 1, "folder": tmp_path / "out"}
    places = [photos(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    results = [evaluate(EMBEDDER, Pixels(held_out("folder", root), 8, channels=1), **settings) for root in places]
    assert results[0].path != results[1].path
    (places[1] / "a" / "0.png").write_bytes(b"no image")
    third = evaluate(EMBEDDER, Pixels(held_out("folder", places[1]), 8, channels=1), **settings)
    assert third.content["benign"]["unreadable"] == 1
    assert len(records(tmp_path / "out")) == 3
