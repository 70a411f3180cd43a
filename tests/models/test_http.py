"""Endpoints by address: what is sent, what is taken for an answer, and an audit through one."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.core.batching import fixed_batch
from holdfast.evaluation.evaluate import evaluate
from holdfast.models.adapters import http
from holdfast.models.adapters.http import Endpoint
from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError
from tests.conftest import Call
from tests.helpers.endpoint import Reply, Server, serving, vectors
from tests.helpers.tiny import digits, embedder, photos, rows

MODEL = embedder()


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Answers with the pixels, and is asked again at once."""
    monkeypatch.setattr(http, "WAITS", (0.0, 0.0))
    with serving(flat) as one:
        yield one


def images(count: int = 5, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_arrive_rounded_to_eight_bits(server: Server, channels: int) -> None:
    given = images(channels=channels)
    got = open_model(server.address + "/embed").embed(given)
    assert torch.equal(got, (given * 255).round().flatten(1) / 255)
    assert server.paths == ["/embed"]


def test_images_that_are_the_same_are_sent_once(server: Server) -> None:
    few = images(3)
    got = Endpoint(server.address)(few[[0, 1, 0, 2, 2, 2]])
    assert len(torch.cat(server.received)) == 3
    assert torch.equal(got, Endpoint(server.address)(few)[[0, 1, 0, 2, 2, 2]])
    WrappedModel(Endpoint(server.address))(few[:1])  # in a block of 64
    assert len(server.received[-1]) == 1


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_requests_are_as_large_as_the_endpoint_takes(server: Server, most: int) -> None:
    server.most, given = most, images(11)
    assert torch.equal(Endpoint(server.address)(given), (given * 255).round().flatten(1) / 255)
    assert max(len(one) for one in server.received) <= most
    assert sum(len(one) for one in server.received) == 11


@pytest.mark.parametrize(
    "first", [[(503, {}, b"")], [(500, {}, b"oh"), (429, {"Retry-After": "0"}, b"")], [None, None]]
)
def test_what_fails_for_a_while_is_asked_again(server: Server, first: list[Reply | None]) -> None:
    server.replies = [*first]
    assert Endpoint(server.address)(images()).shape == (5, 48)
    assert len(server.paths) == len(first) + 1


def test_waits_get_longer_and_obey_the_endpoint(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(http, "WAITS", (1.0, 2.0, 4.0, 8.0))
    monkeypatch.setattr(http, "sleep", waited.append)
    after = ({}, {"Retry-After": "3"}, {"Retry-After": "100000"}, {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"})
    server.replies = [(503, headers, b"") for headers in after]
    Endpoint(server.address)(images())
    assert waited == [1.0, 3.0, http.PATIENCE, 8.0]


def test_in_the_end_it_is_refused_in_one_line(server: Server) -> None:
    server.replies = [(503, {}, b"<b>over\nloaded</b>\x1b[2J")] * 9
    with pytest.raises(HoldfastError, match=r"no answer in 3 tries \(status 503: <b>over loaded</b>\\x1b\[2J\): is it"):
        Endpoint(server.address)(images())
    assert len(server.paths) == 3


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITS", (0.0,))
    with serving(flat) as gone:
        address = gone.address
    with pytest.raises(HoldfastError, match=r"no answer in 2 tries .*is it running"):
        Endpoint(address)(images())


def test_an_endless_answer_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(0.0, 50.0)
    monkeypatch.setattr(http, "monotonic", lambda: next(times))
    monkeypatch.setattr(http, "SECONDS", 40.0)
    with pytest.raises(HoldfastError, match="an answer takes more than 40 s"):
        Endpoint(server.address)(images())


def test_another_place_is_named_and_not_gone_to(server: Server) -> None:
    with serving(flat) as other:
        server.replies = [(307, {"Location": other.address}, b"")]
        with pytest.raises(HoldfastError, match=f"sends us on to {other.address}: give that address"):
            Endpoint(server.address)(images())
        assert not other.paths


LONG = b'{"embeddings": [' + b"[" + b"1, " * 40_000_0 + b"1]]}"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (vectors([[1.0, 2.0]]), "does not answer with embeddings: there are 1 for 2 images"),
        (vectors([[1.0]] * 3), "there are 3 for 2 images"),
        (vectors([[1.0, 2.0], [1.0]]), "answers with vectors of 1 and of 2 numbers"),
        (vectors([[1.0, float("nan")], [1.0, 2.0]]), "is not JSON: NaN is no number"),
        (vectors([[1.0, float("-inf")], [1.0, 2.0]]), "is not JSON: -Infinity is no number"),
        (vectors([[1.0, 1e300], [1.0, 2.0]]), r"embeddings.0.1 is at most 1e\+30"),
        ((200, {}, b'{"embeddings": [[1e999], [1]]}'), "embeddings.0.0 is at most"),
        ((200, {}, b'{"embeddings": [[1' + b"0" * 400 + b"], [1]]}"), "embeddings.0.0"),
        (vectors([["1"], ["2"]]), "embeddings.0.0 takes a finite number, not '1'"),
        (vectors([[True], [False]]), "embeddings.0.0 takes a finite number, not True"),
        (vectors([[], []]), "embeddings.0 takes a list with something in it"),
        (vectors(None), "embeddings takes a list, not None"),
        ((200, {}, b'{"vectors": []}'), "embeddings is missing"),
        ((200, {}, b"[" * 100_000), "is not JSON"),
        ((200, {}, b"<html>"), "is not JSON"),
        ((200, {}, b"\xff\xfe"), "is not JSON"),
        ((200, {}, b""), "is not JSON"),
        ((200, {}, LONG * 2), "answers with more than 2,097,152 bytes"),
        ((404, {}, b"no such\npage"), r"refuses the images \(status 404: no such page\)"),
        ((413, {}, b""), None),
        ((401, {}, b""), r"refuses the images \(status 401\)"),
        ((204, {}, b""), "refuses the images"),
    ],
)
def test_what_is_no_answer(server: Server, reply: Reply, message: str | None) -> None:
    server.replies = [reply]
    if message is None:
        assert Endpoint(server.address)(images(2)).shape == (2, 48)
        return
    with pytest.raises(HoldfastError, match=message) as caught:
        Endpoint(server.address)(images(2))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert len(server.paths) == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:x",
        "https:///path",
        "http://a:99999/",
        "http://a:b/",
        "http://a b/",
        "http://[a/",
        "http://a/ü",
        "http://a/\n",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(HoldfastError, match="is no address: give http://host:port/path"):
        open_model(address)


def test_secrets_are_sent_and_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(http.TOKEN, "hidden")
    opened = open_model(server.address + "/v1?key=secret")
    opened.embed(images())
    assert server.paths == ["/v1?key=secret"]
    assert server.headers[0]["Authorization"] == "Bearer hidden"
    assert "secret" not in str((opened.name, opened.about, opened.word, opened.remarks))
    with pytest.raises(HoldfastError, match="no user and password in it: give a token as HOLDFAST_TOKEN") as caught:
        open_model("http://me:hunter2@host/")
    assert "hunter2" not in str(caught.value)


def test_it_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="has its own weights"):
        open_model("http://host/", weights=tmp_path)


# --- an audit


class Files:
    """What an endpoint computes, here."""

    eight_bits, exact = True, False

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return fixed_batch(MODEL, (images * 255).round() / 255)


AUDIT: dict[str, Any] = {"max_queries": 12, "query_budget": 60, "quiet": True, "device": "cpu", "gradient": "square"}


@pytest.mark.parametrize("settings", [{"eps": 0.1}, {"eps": 0.7, "norm": "l2"}])
def test_an_audit_through_an_endpoint_is_that_of_its_model(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record by record; what is sent are 8-bit images in the ball, and no more of them than the budget allows."""
    options = {**AUDIT, **settings, "protocol": "worst"}
    with serving(MODEL) as server:
        over = evaluate(server.address, digits(), **options, folder=tmp_path / "over")
    here = evaluate(Files(), digits(), **options, folder=tmp_path / "here")
    for name in ("robust R@1", "benign", "trusted", "checks"):
        assert over.content[name] == here.content[name], name
    assert over.path is not None
    assert here.path is not None
    for file in (over.path.parent / "records").iterdir():
        found = rows(file)
        assert found == rows(here.path.parent / "records" / file.name)
        if "norm" not in settings:
            assert all(round(255 * one["moved"], 3) % 1 == 0 for one in found)
            assert max(one["moved"] for one in found) <= 25.5 / 255
    assert over.asked is not None
    assert 1 <= over.asked <= 2 * 60
    assert over.content["trusted"] is True
    assert "upper bound" in over.verdict


def test_by_one_word_on_the_command_line(call: Call, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", each=8)
    with serving(embedder(channels=3)) as server:
        status, out, _ = call(
            *("evaluate", server.address + "/embed", "--data", "folder", "--root", root, "--size", "8"),
            *(
                "--eps",
                "8/255",
                "--protocol",
                "worst",
                "--query-budget",
                "60",
                "--no-checks",
                "--out",
                tmp_path / "out",
            ),
        )
    assert status == 0
    assert "verdict: unchecked, upper bound" in out
    assert "model queries each" in out
    assert "model queries: " in out
    assert "images are sent as PNGs of 8 bits" in out
    (result,) = (tmp_path / "out").rglob("result.json")
    content = json.loads(result.read_text())
    assert content["settings"]["gradient"] == "square"
    assert content["settings"]["query_budget"] == 60
