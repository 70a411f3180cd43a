"""An attack on a search by its answers: what it asks, what outlives a kill, and that the white box does more."""

import json
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast.evaluation.evaluate import evaluate
from holdfast.models.adapters import http
from holdfast.search.feedback.attack import attack_search
from holdfast.search.feedback.curve import curve
from holdfast.search.oracles.endpoint import open_endpoint
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.endpoint import serving_search
from tests.helpers.tiny import digits, embedder, rows, snapshot

MODEL = embedder()
PIXELS = digits(60)
with torch.no_grad():
    ITEMS = MODEL(PIXELS.read(torch.arange(60))[0])
QUICK: dict[str, Any] = {"k": 4, "query_budget": 12, "max_queries": 5, "eps": 0.2, "batch": 3, "quiet": True}


class Search:
    """An exact search that keeps what it was asked, and ends with an error at the ``fatal``-th image."""

    def __init__(self, fatal: int | None = None, error: BaseException | None = None) -> None:
        self.asked: list[Tensor] = []
        self.fatal, self.error = fatal, error or KeyboardInterrupt()

    def __call__(self, images: Tensor, k: int) -> Iterable[Sequence[str]]:
        for image in images:
            if len(self.asked) + 1 == self.fatal:
                raise self.error
            self.asked.append(image)
            with torch.no_grad():
                near = torch.cdist(MODEL(image[None]).double(), ITEMS.double())[0].argsort(stable=True)[:k]
            yield [str(one) for one in near.tolist()]


def run(folder: Path, search: Any, data: Any = PIXELS, **settings: Any) -> Any:
    return attack_search(search, data, folder=folder, **{**QUICK, **settings})


def lasting(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(folder).items() if name != "costs.jsonl"}


@pytest.mark.parametrize("name", ["rank-feedback", "rank-promotion"])
def test_an_attack_asks_each_image_once_within_its_budget(name: str, tmp_path: Path) -> None:
    search = Search()
    found = run(tmp_path, search, name=name)
    asked = {one.numpy().tobytes() for one in search.asked}
    assert len(asked) == len(search.asked) == found.content["searches"] <= 5 * 12
    assert len(rows(next(tmp_path.glob("searches-*.jsonl")))) == len(asked)
    for one in search.asked:
        assert torch.equal((255 * one).round() / 255, one)
    clean = {int(Path(entry["file"]).stem) for entry in found.entries}
    per_image = dict.fromkeys(clean, 0)
    for entry in found.entries:
        saved, was = (np.asarray(Image.open(tmp_path / entry[key])).astype(int) for key in ("file", "clean"))
        assert 0 < np.abs(saved - was).max() <= 51
        assert (saved / 255).astype("float32").tobytes() in asked
        per_image[int(Path(entry["file"]).stem)] = int(max(entry["after"].values()))
    assert all(entry["saved"] == entry["after"] for entry in found.entries)
    assert json.loads((tmp_path / "attack.json").read_text()) == found.content


def test_what_an_entry_says_is_what_the_search_answers(tmp_path: Path) -> None:
    for entry in run(tmp_path, Search(), query_budget=40, eps=0.4).entries:
        own, answers = entry["file"].removesuffix(".png"), []
        for name in (entry["clean"], entry["file"]):
            pixels = torch.from_numpy(np.asarray(Image.open(tmp_path / name)) / 255).float()
            (answer,) = Search()(pixels[None, None], 5)
            answers.append([one for one in answer if one != own][:4])
        clean, now = answers
        held = sum(1 / np.log2(i + 2) for i, one in enumerate(now) if one in clean)
        assert entry["after"]["kept"] == pytest.approx(100 * held / sum(1 / np.log2(i + 2) for i in range(4)), abs=1e-5)
        assert (entry["after"]["all replaced"] > 0) == (not set(clean) & set(now))


# ---- after a kill ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fatal", [2, 9, 20, 37])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), HoldfastError("the search gives no answer in 6 tries")], ids=["killed", "no answer"]
)
def test_started_again_it_asks_nothing_twice(fatal: int, error: BaseException, tmp_path: Path) -> None:
    whole = Search()
    run(tmp_path / "whole", whole)
    search = Search(fatal, error)
    with pytest.raises(type(error)) as stop:
        run(tmp_path / "killed", search)
    if isinstance(error, HoldfastError):
        assert f"{fatal - 1} answer" in str(stop.value)
        assert "repeat the command to go on" in str(stop.value)
    log = next((tmp_path / "killed").glob("searches-*.jsonl"))
    assert len(rows(log)) == fatal - 1
    with log.open("a") as stream:
        stream.write('{"image": "12')
    search.fatal = None
    run(tmp_path / "killed", search)
    assert lasting(tmp_path / "killed") == lasting(tmp_path / "whole")
    assert len(search.asked) == len(whole.asked)
    assert len({one.numpy().tobytes() for one in search.asked}) == len(whole.asked)
    run(tmp_path / "killed", search)
    assert len(search.asked) == len(whole.asked)


def test_a_folder_of_another_attack_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Search())
    before, search = snapshot(tmp_path), Search()
    with pytest.raises(HoldfastError, match="holds images of another attack"):
        run(tmp_path, search, eps=0.3)
    assert snapshot(tmp_path) == before
    assert not search.asked


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    run(tmp_path, Search())
    log = next(tmp_path.glob("searches-*.jsonl"))
    log.write_text('{"image": "12", "ids": []}\n')
    with pytest.raises(
        HoldfastError, match=r"searches-.*\.jsonl is damaged; .*: line 1: image takes text that matches"
    ):
        run(tmp_path, Search())


# ---- a search that answers oddly -------------------------------------------------------------------------------------


def few(images: Tensor, k: int) -> list[list[str]]:
    return [["3", "3", "7"] for _ in images]


def test_answers_may_be_short_and_name_an_item_twice(tmp_path: Path) -> None:
    found = run(tmp_path, few)
    assert {entry["after"]["kept"] for entry in found.entries} != {0.0}
    (log,) = tmp_path.glob("searches-*.jsonl")
    assert all(line["ids"] == ["3", "7"] for line in rows(log))


def test_too_few_answers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="the search answers 1 of 3 images; 1 answer is kept in"):
        run(tmp_path, lambda images, k: [["1"]])
    with pytest.raises(HoldfastError, match=r"the search fails \(TypeError: "):
        run(tmp_path / "other", lambda images: [["1"]])


def test_an_unknown_id_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="answers with id 'a9', and the gallery has no such item: say with --ids"):
        run(tmp_path, lambda images, k: [["a9"] for _ in images])
    found = run(tmp_path / "named", lambda images, k: [["a9"] for _ in images], ids=[f"a{i}" for i in range(60)])
    assert found.entries


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "es"}, "unknown attack on a search 'es'"),
        ({"k": 0}, "k is at least 1"),
        ({"query_budget": 2}, "query_budget is at least 3"),
        ({"eps": 0}, "eps is above 0"),
        ({"eps": 3}, "eps is in units of the pixel range"),
        ({"steps": 4}, "steps does not go with a search"),
        ({"gradient": "nes"}, "gradient does not go with a search"),
        ({"restarts": 1}, "restarts does not go with a search"),
        ({"batch": 0}, "batch is at least 1"),
        ({"item": "3"}, "goes with attack 'rank-promotion', not 'rank-feedback'"),
        ({"name": "rank-promotion", "item": "60"}, "no item '60' to promote: the gallery has 60 items"),
        ({"ids": ["a", "b"]}, "there are 2 ids for 60 items"),
        ({"ids": ["a"] * 60}, "an id stands for two items: 'a'"),
        ({"search": "fais:x"}, "did you mean faiss:x"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_is_asked(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    search = Search()
    with pytest.raises(HoldfastError, match=message):
        run(tmp_path / "adv", settings.pop("search", search), **settings)
    assert not search.asked
    assert not (tmp_path / "adv").exists()


def test_the_curve_counts_what_was_reached_by_then() -> None:
    entries = [{"after": {"first wrong": float(at)}} for at in (0, 1, 100, 101, 250)]
    points = curve(entries, ["first wrong"], 300)["first wrong"]
    assert [(one["searches"], one["kept"], one["value"]) for one in points] == [(1, 1, 20), (100, 2, 40), (300, 4, 80)]


# ---- beside the white box --------------------------------------------------------------------------------------------


def test_answers_alone_never_do_more_than_gradients(tmp_path: Path) -> None:
    """Of the same 64 queries, in the same ball, the white box breaks as many as the answers do, or more."""
    pixels = digits(150)
    with torch.no_grad():
        items = MODEL(pixels.read(torch.arange(150))[0])

    def search(images: Tensor, k: int) -> list[list[str]]:
        with torch.no_grad():
            near = torch.cdist(MODEL(images).double(), items.double()).argsort(dim=1, stable=True)[:, :k]
        return [[str(one) for one in row] for row in near.tolist()]

    settings: dict[str, Any] = {"eps": 5 / 255, "max_queries": 64, "quiet": True}
    found = attack_search(search, pixels, folder=tmp_path, k=10, query_budget=100, **settings)
    white = evaluate(MODEL, pixels, attacks=("ltm",), steps=30, checks=False, **settings).content
    wrong = found.content["curve"]["first wrong"]
    left = white["columns"]["LTM"]
    assert {point["queries"] for point in wrong} == {left["queries"]} == {64}
    assert wrong[0]["kept"] == 64 - white["sample R@1"]["kept"]
    assert wrong[0]["kept"] < wrong[-1]["kept"] <= 64 - left["kept"] < 64


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of query images without labels."""
    assert isinstance(PIXELS.table.images, np.ndarray)
    for i in range(4):
        Image.fromarray(PIXELS.table.images[i]).save(tmp_path / f"{i}.png")
    (tmp_path / "q.csv").write_text("path\n" + "".join(f"{i}.png\n" for i in range(4)))
    return tmp_path / "q.csv"


def test_the_command_attacks_an_address(listed: Path, tmp_path: Path, call: Call, refused: Refuse) -> None:
    out = tmp_path / "adv"
    with serving_search(MODEL, ITEMS) as server:
        command: list[str | Path] = ["attack", "--search", f"{server.address}/search", "--queries", listed]
        command += ["--attack", "rank-feedback", "--budget", "9", "-k", "3", "--size", "8", "--channels", "1"]
        assert "nothing says how far these images may be changed: give eps" in refused(*command, "--out", out)
        status, printed, error = call(*command, "--eps", "0.3", "--out", out)
        assert (status, error) == (0, "")
        received = torch.cat(server.received)
    content = json.loads((out / "attack.json").read_text())
    assert len(received) == content["searches"] <= 36
    assert set(content["curve"]) == {"first replaced", "all replaced"}
    assert f"searches: {len(received)}, each logged in" in printed
    assert "rank-feedback on http://127.0.0.1" in printed
    assert len(list(out.glob("*-clean.png"))) == 4


def test_a_server_that_ends_is_one_line_and_nothing_is_lost(
    listed: Path, tmp_path: Path, call: Call, refused: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WAITS", (0.0,))
    with serving_search(MODEL, ITEMS) as server:
        command: list[str | Path] = ["attack", "--search", f"{server.address}/search", "--queries", listed]
        command += ["--budget", "9", "--size", "8", "--channels", "1", "--eps", "0.3", "--out", tmp_path / "adv"]
        answer = server.told

        def told(images: Tensor, content: dict[str, Any]) -> Any:
            return (500, {}, b"out of order") if len(server.received) > 4 else answer(images, content)

        monkeypatch.setattr(server, "told", told)
        said = refused(*command)
        assert "gives no answer in 2 tries (status 500: out of order)" in said
        assert "answers are kept in" in said
        kept = len(rows(next((tmp_path / "adv").glob("searches-*.jsonl"))))
        assert kept == len(torch.cat(server.received[:4]))
        monkeypatch.setattr(server, "told", answer)
        server.received.clear()
        assert call(*command)[0] == 0
        content = json.loads((tmp_path / "adv" / "attack.json").read_text())
        assert content["searches"] == kept + len(torch.cat(server.received))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack"], "there is nothing to attack: give a MODEL, or --search"),
        (["attack", "zoo:digits-none-r", "--attack", "rank-feedback"], "'rank-feedback' goes with --search"),
        (["attack", "zoo:digits-none-r", "--item", "3"], "--item goes with --search"),
        (["attack", "--search", "faiss:x"], "needs a test set: --data NAME"),
        (["attack", "--search", "http://x/y", "--data", "digits", "--attack", "es"], "unknown attack on a search 'es'"),
        (["attack", "--search", "faiss:x", "--data", "digits"], "faiss:x searches with vectors: name the model"),
        (["attack", "zoo:digits-none-r", "--search", "faiss:x", "--norm", "l3"], "norm"),
        (["attack", "zoo:digits-none-r", "--search", "faiss:x", "--ids", "no.txt"], "no.txt is missing"),
        (["attack", "zoo:digits-none-r", "--search", "faiss:x", "--gradient", "nes"], "gradient does not go"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    arguments: list[str], message: str, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_the_example_is_a_search(tmp_path: Path) -> None:
    names = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "search_server.py"))
    search, items = names["search_in"](MODEL, PIXELS)
    torch.testing.assert_close(items, ITEMS)
    server = names["Server"](search)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        word = f"http://127.0.0.1:{server.server_port}/search"
        found = run(tmp_path, word, query_budget=4)
        with pytest.raises(HoldfastError, match=r"refuses the images \(status 400: .*takes images of"):
            [*open_endpoint(word)(torch.zeros(1, 3, 16, 16), 2)]
    finally:
        server.shutdown()
        server.server_close()
    assert "first wrong" in found.content["curve"]
