"""Attacks on many images: the same in any batches, after a kill, and on either side of a gallery."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.core.batching import WIDTH
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Runner, Target
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.embedder import Embedder
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel
from holdfast.report import Result
from holdfast.util.errors import HoldfastError
from holdfast.util.progress import Progress
from tests.helpers.tiny import NINE, QUICK, counted, digits, embedder, lasting, pair, records, rows, sided, snapshot
from tests.helpers.waiting import Gate, forked

EMBEDDER = embedder()
"""Looked at only; a test that changes a model makes its own."""


def found(result: Result, attack: str) -> list[dict[str, Any]]:
    """The records of an attack."""
    assert result.path is not None
    return rows(result.path.parent / "records" / f"{attack}.jsonl")


def after(result: Result, attack: str, reading: str) -> Tensor:
    return torch.tensor([record["after"][reading] for record in found(result, attack)])


# --- the same whatever the batch, the order, and the company


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 3},
        {"steps": 2, "restarts": 1, "attacks": ("es", "gtm", "qa+")},
        {"steps": 2, "norm": "l2", "eps": 0.7, "attacks": ("es", "ltm", "ca-")},
        {"steps": 2, "gradient": "square", "attacks": ("es", "gtt")},
        {"steps": 1, "gradient": "nes", "attacks": ("tma",), "max_queries": 18},
        {"steps": 2, "attacks": ("ca+:3", "qa-:1", "spqa+", "oa:3")},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_records_of_any_batch_size_are_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    """With 49 images in batches of 16, the last holds one."""
    given = {**QUICK, "max_queries": 49, **settings}
    small, large = (evaluate(EMBEDDER, digits(), folder=tmp_path / str(b), batch=b, **given) for b in (16, 128))
    assert small.path is not None
    assert large.path is not None
    wanted = [name.replace(":", "_") for name in given.get("attacks", NINE)]
    assert records(tmp_path / "16").keys() == {f"{small.path.parent.name}/records/{name}.jsonl" for name in wanted}
    assert records(tmp_path / "16") == records(tmp_path / "128")
    for part in ("columns", "ERS", "robust R@1", "benign", "hash"):
        assert small.content[part] == large.content[part]
    assert len(rows(small.path.parent / "costs.jsonl")) > len(rows(large.path.parent / "costs.jsonl")) == len(wanted)


def test_the_order_of_the_data_does_not_matter_where_nothing_is_drawn(tmp_path: Path) -> None:
    images, labels = pair(60)
    order = np.random.default_rng(0).permutation(60)
    settings = {**QUICK, "eps": 0.3, "max_queries": None, "attacks": ("ltm", "gtm", "gtt"), "folder": tmp_path}
    plain = evaluate(EMBEDDER, (images, labels), **settings)
    mixed = evaluate(EMBEDDER, (images[order], labels[order]), **settings)
    assert plain.path != mixed.path
    for attack in ("ltm", "gtm", "gtt"):
        moved_back = [
            {**record, "id": int(order[record["id"]]), "chosen": [int(order[i]) for i in record["chosen"]]}
            for record in found(mixed, attack)
        ]
        assert sorted(moved_back, key=lambda record: int(record["id"])) == found(plain, attack)


def test_an_attack_finds_the_same_alone_and_among_others(tmp_path: Path) -> None:
    every = evaluate(EMBEDDER, digits(), folder=tmp_path, **QUICK)
    for attack in ("qa+", "es"):
        alone = evaluate(EMBEDDER, digits(), folder=tmp_path, attacks=attack, **QUICK)
        assert found(alone, attack) == found(every, attack)


def test_the_seed_decides_what_is_drawn_and_which_images(tmp_path: Path) -> None:
    one, two = (evaluate(EMBEDDER, digits(), folder=tmp_path, seed=seed, **QUICK) for seed in (0, 1))
    for attack in NINE:
        drawn, other = ([record["id"] for record in found(result, attack)] for result in (one, two))
        assert drawn == sorted(set(drawn)) == [record["id"] for record in found(one, "es")]
        assert len(drawn) == len(other) == 12
        assert drawn != other
    assert len({tuple(record["chosen"]) for record in found(one, "tma")}) > 6
    assert [record["chosen"] for record in found(one, "tma")] != [record["chosen"] for record in found(one, "qa+")]


def test_records_say_what_was_done(tmp_path: Path) -> None:
    result = evaluate(EMBEDDER, digits(), folder=tmp_path, eps=0.1, **QUICK)
    assert result.path is not None
    for attack in NINE:
        for record in found(result, attack):
            assert list(record) == ["id", "chosen", "before", "after", "moved"]
            assert list(record["before"]) == list(record["after"])
            assert 0 <= record["moved"] <= 0.1 + 1e-6
            assert record["id"] not in record["chosen"]
        assert max(record["moved"] for record in found(result, attack)) > 0.01
    costs = rows(result.path.parent / "costs.jsonl")
    assert [(cost["attack"], cost["images"]) for cost in costs] == [(attack, 12) for attack in NINE]
    assert result.content["cost"]["forward"] == sum(cost["forward"] for cost in costs)
    # Two steps with a gradient, a look at the last iterate and a reading, of a block; ES has no known start.
    assert [(cost["forward"], cost["backward"]) for cost in costs] == [(4 * WIDTH, 2 * WIDTH)] * 9


# --- after a kill


RESUMED: dict[str, Any] = {**QUICK, "attacks": ("ca+", "es", "qa-"), "batch": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, int]:
    """An evaluation in batches of five that was never interrupted, and the calls of the model it took."""
    embed, calls = counted(EMBEDDER)
    return evaluate(embed, digits(), folder=tmp_path_factory.mktemp("whole"), **RESUMED), calls[0]


def check_resumed(result: Result, whole: Result, finished: list[str]) -> None:
    """The result, records and costs are those of the uninterrupted evaluation, the lines of costs there kept."""
    assert result.path is not None
    assert whole.path is not None
    assert lasting(result.content) == lasting(whole.content)
    assert records(result.path.parent) == records(whole.path.parent)
    costs = (result.path.parent / "costs.jsonl").read_text().splitlines()
    assert costs[: len(finished)] == finished
    of_whole = rows(whole.path.parent / "costs.jsonl")
    assert [{**json.loads(cost), "seconds": 0} for cost in costs] == [{**cost, "seconds": 0} for cost in of_whole]


def test_a_killed_evaluation_goes_on(whole: tuple[Result, int], tmp_path: Path) -> None:
    complete, calls = whole
    gate = Gate(tmp_path / "gate")
    embed, _ = counted(EMBEDDER, calls * 2 // 3, gate.halt)
    process = forked(lambda: evaluate(embed, digits(), folder=tmp_path / "out", **RESUMED))
    gate.arrived()
    process.kill()
    process.join()
    gate.close()
    (place,) = (tmp_path / "out").iterdir()
    finished = (place / "costs.jsonl").read_text().splitlines()
    assert 0 < len(finished) < 9
    assert not (place / "result.json").exists()
    embed, again = counted(EMBEDDER)
    check_resumed(evaluate(embed, digits(), folder=tmp_path / "out", **RESUMED), complete, finished)
    assert again[0] < 3 * calls // 4


@pytest.mark.parametrize(("share", "batch"), [(0.6, 5), (1, 5), (0.5, 3)])
def test_an_interrupted_batch_is_attacked_again(
    share: float, batch: int, whole: tuple[Result, int], tmp_path: Path
) -> None:
    """Also in batches of another size, at other costs."""
    complete, calls = whole
    with pytest.raises(KeyboardInterrupt):
        evaluate(counted(EMBEDDER, int(calls * share))[0], digits(), folder=tmp_path, **RESUMED)
    (place,) = tmp_path.iterdir()
    finished = (place / "costs.jsonl").read_text().splitlines()
    result = evaluate(EMBEDDER.__call__, digits(), folder=tmp_path, **{**RESUMED, "batch": batch})
    if batch == RESUMED["batch"]:
        check_resumed(result, complete, finished)
    assert complete.path is not None
    assert records(place) == records(complete.path.parent)


def test_a_finished_evaluation_is_returned_at_once(whole: tuple[Result, int], tmp_path: Path) -> None:
    complete, calls = whole
    assert complete.path is not None
    shutil.copytree(complete.path.parent, tmp_path / complete.path.parent.name)
    before = snapshot(tmp_path)
    embed, again = counted(EMBEDDER)
    assert evaluate(embed, digits(), folder=tmp_path, **RESUMED).content == complete.content
    assert again[0] == calls - complete.content["cost"]["forward"] // WIDTH
    assert snapshot(tmp_path) == before


def test_checks_are_added_to_a_finished_evaluation(tmp_path: Path) -> None:
    settings = {**QUICK, "max_queries": 32, "attacks": ("es", "ltm"), "folder": tmp_path}
    plain = evaluate(EMBEDDER, digits(), **settings)
    assert (plain.content["checks"], plain.content["trusted"], plain.verdict) == ([], None, "unchecked")
    attacked = {name: content for name, content in snapshot(tmp_path).items() if not name.endswith("result.json")}
    checked = evaluate(EMBEDDER, digits(), **{**settings, "checks": True})
    assert len(checked.content["checks"]) >= 9
    assert checked.verdict == "ok"
    assert checked.path == plain.path
    added = {name: checked.content[name] for name in ("checks", "further", "environment")}
    assert set(added["further"]) == {"ES:D", "ES:R", "LTM"}
    assert checked.content == plain.content | added | {"trusted": True}
    left = snapshot(tmp_path)
    assert {name: content for name, content in left.items() if not name.endswith("result.json")} == attacked
    for checks in (True, False):
        again = evaluate(EMBEDDER, digits(), **{**settings, "checks": checks})
        assert again.content == checked.content
    assert snapshot(tmp_path) == left


def test_what_differs_goes_to_another_folder(tmp_path: Path) -> None:
    """Nothing of one evaluation is taken for another: not with other weights, settings, data, or preprocessing."""
    settings = {**QUICK, "eps": 0.3, "attacks": "ltm", "steps": 1, "max_queries": 2, "folder": tmp_path}
    images, labels = pair(40)
    brighter = images.copy()
    brighter[-1, 0, 0] ^= 1
    relabelled = labels.copy()
    relabelled[0] = (relabelled[0] + 1) % 10
    plain = Embedder(replace(EMBEDDER.config, mean=(0.4,))).eval()
    plain.load_state_dict(EMBEDDER.state_dict())
    results = [
        evaluate(EMBEDDER, (images, labels), **settings),
        evaluate(embedder(1), (images, labels), **settings),
        evaluate(plain, (images, labels), **settings),
        evaluate(EMBEDDER.__call__, (images, labels), **settings),
        evaluate(plain.__call__, (images, labels), **settings),
        evaluate(EMBEDDER, (brighter, labels), **settings),
        evaluate(EMBEDDER, (images, relabelled), **settings),
        evaluate(EMBEDDER, (images, labels), surrogate=EMBEDDER, **settings),
        evaluate(EMBEDDER, (images, labels), surrogate=plain, **settings),
        evaluate(EMBEDDER, (images, labels), **{**settings, "steps": 2}),
        evaluate(EMBEDDER, (images, labels), "cvpr22", **settings),
    ]
    assert len({result.path for result in results}) == len(results)
    assert len({result.content["hash"] for result in results}) == len(results)
    same = evaluate(EMBEDDER, (images, labels), name="other", batch=1, about={"x": 1}, **settings)
    assert same.content == results[0].content


# --- strength


def test_transfer_from_the_model_itself_is_the_white_box(tmp_path: Path) -> None:
    white = evaluate(EMBEDDER, digits(), folder=tmp_path / "white", **QUICK)
    itself = evaluate(EMBEDDER, digits(), folder=tmp_path / "itself", surrogate=embedder(), **QUICK)
    assert [*records(tmp_path / "white").values()] == [*records(tmp_path / "itself").values()]
    assert white.content["columns"] == itself.content["columns"]
    assert white.content["model"]["surrogate"] is None
    assert itself.content["model"]["surrogate"] == itself.content["model"]["hash"]
    assert itself.content["cost"]["backward"] == white.content["cost"]["backward"] > 0
    assert "upper bound" not in itself.verdict


def test_transfer_from_another_model_is_weaker(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))  # of another dimension and length
    settings = {**QUICK, "steps": 6, "max_queries": 40, "attacks": ("es", "tma", "ltm")}
    white = evaluate(EMBEDDER, digits(), folder=tmp_path / "white", **settings).content["columns"]
    transferred = evaluate(EMBEDDER, digits(), folder=tmp_path / "moved", surrogate=other, **settings)
    moved = transferred.content["columns"]
    assert "upper bound" in transferred.verdict
    still = evaluate(EMBEDDER, digits(), **{**settings, "eps": 0}).content["columns"]
    assert still["ES:D"]["value"] < 0.5 * moved["ES:D"]["value"] < 0.5 * white["ES:D"]["value"]
    assert moved["TMA"]["value"] < white["TMA"]["value"]
    assert white["LTM"]["value"] < moved["LTM"]["value"]


@pytest.mark.parametrize(("gradient", "steps"), [("square", 20), ("nes", 1)])
def test_attacks_without_gradients(gradient: str, steps: int, tmp_path: Path) -> None:
    settings = {**QUICK, "eps": 0.2, "max_queries": 16, "attacks": ("es", "ltm"), "step": None if steps > 1 else 0.1}
    black = evaluate(
        torch.no_grad()(EMBEDDER.__call__),
        digits(),
        folder=tmp_path,
        gradient=gradient,
        **{**settings, "steps": steps},
    )
    white = evaluate(EMBEDDER, digits(), **{**settings, "steps": 10})
    assert black.content["cost"]["backward"] == 0
    assert black.content["cost"]["forward"] > 0
    assert black.content["settings"]["gradient"] == gradient
    assert max(record["moved"] for record in found(black, "es")) <= 0.2 + 1e-6
    before = torch.tensor([record["before"]["LTM"] for record in found(black, "ltm")])
    assert after(black, "ltm", "LTM").mean() < before.mean()
    assert 0.02 < black.content["columns"]["ES:D"]["value"] < white.content["columns"]["ES:D"]["value"]


# --- queries and gallery apart


def test_query_attacks_perturb_queries_and_candidate_attacks_the_gallery(tmp_path: Path) -> None:
    """Behind 7 training images stand 20 queries and then 30 others, and one query without a match among them."""
    labels = [i % 5 for i in range(49)] + [9]
    is_query = [i < 20 or i == 49 for i in range(50)]
    pixels = sided(labels, is_query, [not side for side in is_query], train=7)
    result = evaluate(EMBEDDER, pixels, folder=tmp_path, **{**QUICK, "max_queries": None})
    queries, gallery = [*range(7, 27)], [*range(27, 56)]
    for attack in NINE:
        perturbed, asked = (gallery, [*queries, 56]) if attack.startswith("ca") else (queries, gallery)
        assert [record["id"] for record in found(result, attack)] == perturbed
        assert {i for record in found(result, attack) for i in record["chosen"]} <= set(asked)
    assert result.content["benign"]["queries"] == 20
    assert result.content["benign"]["queries_without_match"] == 1
    assert (result.content["data"]["queries"], result.content["data"]["gallery"]) == (21, 29)
    assert result.content["data"]["attacked"] == 20
    assert result.content["columns"]["CA+"]["queries"] == 29
    of_class = {27 + i: labels[20 + i] for i in range(29)}
    nearest = {record["id"]: record["chosen"][0] for record in found(result, "gtm")}
    assert all(of_class[chosen] != labels[i - 7] for i, chosen in nearest.items())


def test_a_gallery_of_one_item_per_class_is_enough_for_separate_queries(tmp_path: Path) -> None:
    pixels = sided([*range(8)] * 3, [i >= 8 for i in range(24)], [i < 8 for i in range(24)])
    result = evaluate(EMBEDDER, pixels, folder=tmp_path, **{**QUICK, "max_queries": None})
    assert [record["id"] for record in found(result, "ca-")] == [*range(8)]
    assert [record["id"] for record in found(result, "qa-")] == [*range(8, 24)]


def test_means_of_the_faithful_protocol_are_over_batches_of_128(tmp_path: Path) -> None:
    settings = {**QUICK, "max_queries": 140, "steps": 1, "attacks": "es", "batch": 50}
    faithful = evaluate(EMBEDDER, digits(150), "cvpr22", folder=tmp_path, **settings)
    values = after(faithful, "es", "ES:R").double()
    assert values[:128].mean() != pytest.approx(values[128:].mean())
    expected = (values[:128].mean() + values[128:].mean()) / 2
    assert faithful.content["columns"]["ES:R"]["value"] == pytest.approx(expected.item())
    strict = evaluate(EMBEDDER, digits(150), folder=tmp_path, **settings)
    values = after(strict, "es", "ES:R").double()
    assert strict.content["columns"]["ES:R"]["value"] == pytest.approx(values.mean().item())


# --- a campaign by itself


def target(embed: Callable[[Tensor], Tensor] = EMBEDDER) -> Target:
    pixels, wrapped = digits(40), WrappedModel(embed)
    embedded = embed_dataset(wrapped, pixels, torch.device("cpu"))
    return Target(wrapped, System(embedded.queries, embedded.gallery), pixels)


def runner(name: str = "es", images: Tensor | None = None) -> Runner:
    resolved = resolve_settings("28", steps=2)
    images = torch.arange(0, 40, 3) if images is None else images
    return Runner(name, resolved.attack(name), resolved.pgd(), images, batch=4)


def test_batches_are_yielded_before_they_are_recorded() -> None:
    store, rows, system = Records(None), list[int](), target()
    with Progress("attacking", 14, quiet=True) as progress:
        for batch, attacked in runner().run(system, store, progress):
            assert len(store.of("es")) == len(rows) == progress.done
            assert attacked.images.shape == attacked.clean.shape == (len(batch), 1, 8, 8)
            assert torch.equal(attacked.clean, system.pixels.read(batch)[0])
            read = attacked.outcome(system.model(attacked.images))
            assert all(torch.equal(read[name], attacked.after[name]) for name in read)
            rows += batch.tolist()
    assert rows == [record["id"] for record in store.of("es")] == [*range(0, 40, 3)]


@pytest.mark.parametrize("ids", [[0, 3, 6, 9, 0, 3, 6, 9], [3, 0], [1], [*range(0, 40, 3), 40]])
def test_records_of_other_images_are_refused(ids: list[int], tmp_path: Path) -> None:
    """As two processes on one folder once left them."""
    cost = {"forward": 0, "backward": 0, "seconds": 0.0}
    line = {"chosen": [0], "before": {"r": 0.0}, "after": {"r": 0.0}, "moved": 0.0}
    Records(tmp_path).add("es", [{"id": i, **line} for i in ids], cost)
    with (
        Progress("attacking", 14, quiet=True) as progress,
        pytest.raises(
            HoldfastError, match=rf"records of 'es' in .*one each and in order; remove {tmp_path} to start over"
        ),
    ):
        next(runner().run(target(), Records(tmp_path), progress))


def test_an_image_that_vanished_is_named() -> None:
    system = target()
    system.pixels.broken[3] = "gone"
    with (
        Progress("attacking", 14, quiet=True) as progress,
        pytest.raises(HoldfastError, match=r"digits test\[3\] can no longer be read"),
    ):
        next(runner().run(system, Records(None), progress))


@pytest.mark.parametrize("protocol", ["strict", "cvpr22"])
def test_embeddings_that_become_nan_under_attack_are_an_error(protocol: str, tmp_path: Path) -> None:
    """Here for grey values between two of those in the images, which lie on sixteenths."""

    def embed(images: Tensor) -> Tensor:
        odd = ((images > 0.33) & (images < 0.36)).flatten(1).any(1)
        z: Tensor = EMBEDDER(images).masked_fill(odd[:, None], float("nan"))
        return z

    with pytest.raises(
        HoldfastError, match=r"NaN or infinite embeddings for perturbed images.*digits test\["
    ) as caught:
        evaluate(embed, digits(), protocol, folder=tmp_path, **QUICK)
    assert "\n" not in str(caught.value)


def test_too_few_to_choose_from_is_found_before_any_attack(tmp_path: Path) -> None:
    settings = {**QUICK, "attacks": ("es", "qa+:200"), "folder": tmp_path}
    with pytest.raises(HoldfastError, match="needs 200 different targets, and has 99 to choose from"):
        evaluate(EMBEDDER, digits(), **settings)
    assert not [*tmp_path.iterdir()]
