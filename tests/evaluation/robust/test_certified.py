"""Certified R@1: exact where the answer is known, never above what an attack leaves, the same after a kill."""

from math import erf, inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.attacks import System
from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.certified import certified_radius, certify
from holdfast.evaluation.robust.smoothed import READ, attacked
from holdfast.evaluation.robust.smoothing import SmoothedSearch, least_probability
from holdfast.evaluation.runner import Target, generators_of
from holdfast.models.embedder import Embedder
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import counted, digits, embedder, lasting, records, same_set
from tests.oracles.smoothing import gaussian, is_hit, tail

MODEL = embedder()
QUICK: dict[str, Any] = {"protocol": "benign", "sigma": 0.1, "draws": 20, "max_queries": 9, "device": "cpu"}
SIDE = 3


def system_of(model: WrappedModel, pixels: Pixels) -> System:
    images, _ = pixels.read(torch.arange(len(pixels)))
    with torch.no_grad():
        return System(*same_set(model(images), torch.from_numpy(pixels.table.labels)))


class Linear:
    """Two items on a line, and the embedding along it: the first class comes first where ⟨x − centre, normal⟩ > 0."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(SIDE * SIDE, generator=generator)
        self.normal, self.centre = normal / normal.norm(), torch.full((SIDE * SIDE,), 0.5)
        self.model = WrappedModel(self.embed)
        self.model.normalises = False

    def embed(self, images: Tensor) -> Tensor:
        return ((images.flatten(1) - self.centre) @ self.normal)[:, None].repeat(1, 2)

    def search(self, distances: list[float], sigma: float) -> tuple[SmoothedSearch, Queries]:
        """Queries at these distances from the boundary, on the right side of it where positive."""
        images = self.centre + torch.tensor(distances)[:, None] * self.normal
        arrays = np.zeros((len(images), SIDE, SIDE), np.uint8)
        labels = [0] * len(images)
        table = Table.build("line", arrays, labels, ["test"] * len(images))
        pixels = _Given(table, SIDE, channels=1)
        pixels.images = images.view(-1, 1, SIDE, SIDE)
        ids = torch.arange(len(images))
        queries = Queries(self.embed(images), torch.zeros_like(ids), ids)
        items = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        gallery = Gallery(items, torch.tensor([0, 1]), torch.tensor([100, 101]))
        return SmoothedSearch(Target(self.model, System(queries, gallery), pixels), sigma), queries


class _Given(Pixels):
    """Images as they are given, not as 8-bit pixels."""

    images: Tensor

    def read(self, indices: Any, augment: Any = None) -> tuple[Tensor, Tensor]:
        return self.images[indices], torch.ones(len(indices), dtype=torch.bool)


def normal_cdf(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def test_on_a_linear_network_the_radius_is_the_distance_to_the_boundary() -> None:
    """For the exact probability, and with many draws nearly; never beyond it."""
    distances, sigma = [-0.1, 0.02, 0.1, 0.2, 0.3], 0.2
    for distance in distances[1:]:
        assert certified_radius(normal_cdf(distance / sigma), sigma) == pytest.approx(distance, rel=1e-6)
    search, queries = Linear().search(distances, sigma)
    radii, right = certify(search, queries, 20000, 0.001, records=Records(None), quiet=True)
    assert right.tolist() == [False, True, True, True, True]
    assert all(radius <= max(0, distance) for radius, distance in zip(radii.tolist(), distances, strict=True))
    assert radii[2:].tolist() == pytest.approx(distances[2:], abs=0.015)


class Drawing(Linear):
    """A linear network that adds noise of its own to where an image lies on the line."""

    SPREAD = 0.15

    def embed(self, images: Tensor) -> Tensor:
        return super().embed(images) + self.SPREAD * torch.randn(len(images), 1)


def test_votes_of_a_model_that_draws_are_over_its_draws_too() -> None:
    """Its noise adds to the smoothing in the votes, but not in the radius: d becomes d·σ / √(σ² + τ²)."""
    distances, sigma = [0.1, 0.2, 0.3], 0.2
    network = Drawing()
    search, queries = network.search(distances, sigma)
    network.model.random = True
    found = [certify(search, queries, 20000, 0.001, records=Records(None), quiet=True)[0] for _ in range(2)]
    shrunk = [distance * sigma / sqrt(sigma**2 + network.SPREAD**2) for distance in distances]
    assert found[0].tolist() == pytest.approx(shrunk, abs=0.015)
    assert all(radius <= distance for radius, distance in zip(found[0].tolist(), shrunk, strict=True))
    assert torch.equal(*found), "the same draws again"


def test_an_attack_on_a_linear_network_breaks_what_is_within_reach_and_nothing_else() -> None:
    distances = [0.02, 0.1, 0.2, 0.3]
    search, queries = Linear().search(distances, 0.05)
    standing = torch.ones(4, dtype=torch.bool)
    radii = (0.05, 0.15, 0.25)
    left = attacked(search, queries, standing, radii, 0.001, records=Records(None), quiet=True)
    for radius in radii:
        assert left[radius].tolist() == [distance > radius for distance in distances]


def test_radii_are_wrong_as_rarely_as_promised() -> None:
    """For half of the draws a network of known probability gets too large a radius in α of all trials, not more."""
    alpha, sigma, distance, trials = 0.2, 0.2, 0.1, 400
    search, queries = Linear().search([distance] * trials, sigma)
    radii, _ = certify(search, queries, 50, alpha, records=Records(None), quiet=True)
    wrong = int((radii > distance).sum())
    assert 0 < wrong <= alpha * trials + 3 * sqrt(alpha * (1 - alpha) * trials)


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.3, 0.01, 0.001]))
def test_the_lower_bound_is_the_probability_that_makes_so_many_hits_rare(draws: int, hits: int, alpha: float) -> None:
    hits = min(hits, draws)
    least = least_probability(hits, draws, alpha)
    assert 0 <= least <= hits / draws
    if hits:
        assert tail(least, hits, draws) == pytest.approx(alpha, rel=1e-6)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 2))
def test_a_radius_grows_with_the_probability_and_in_units_of_sigma(p: float, q: float, sigma: float) -> None:
    low, high = sorted((p, q))
    assert 0 <= certified_radius(low, sigma) <= certified_radius(high, sigma) <= inf
    assert certified_radius(min(p, 0.5), sigma) == 0
    assert certified_radius(0.9, sigma) == pytest.approx(sigma * 1.2815515655446004)


def test_hits_are_those_of_one_copy_at_a_time_with_ties_and_the_own_item_left_out() -> None:
    pixels = digits(40)
    model = WrappedModel(MODEL)
    images, _ = pixels.read(torch.arange(40))
    with model.frozen(), torch.no_grad():
        system = system_of(model, pixels)
        z = torch.cat([system.gallery.embeddings, system.gallery.embeddings[:10]])  # ties with another class
        labels = torch.cat([system.gallery.labels, (system.gallery.labels[:10] + 1) % 10])
        system = System(system.queries, Gallery(z, labels, torch.arange(50)))
        search, found, wanted = SmoothedSearch(Target(model, system, pixels), 0.3), [], []
        for i in range(12):
            query = system.queries.take(torch.tensor([i]))
            found.append(search.hits(query, images[i], 20, *generators_of("x", 0, [i])))
            noise = gaussian((20, 1, 8, 8), 0.3, *generators_of("x", 0, [i]))
            copies = model(images[i] + noise)
            wanted.append(sum(is_hit(one, z, labels.tolist(), i, int(query.labels)) for one in copies))
    assert found == wanted
    assert 0 < sum(found) < 12 * 20


def test_it_is_the_same_after_a_kill_and_for_fewer_queries(tmp_path: Path) -> None:
    def run(model: Any = MODEL, **changes: Any) -> Any:
        return evaluate(model, digits(), **{**QUICK, "quiet": True, **changes})

    embed, calls = counted(MODEL)
    run(embed)
    for share in (0.2, 0.7):
        with pytest.raises(KeyboardInterrupt):
            run(counted(MODEL, int(share * calls[0]))[0], folder=tmp_path / "killed")
    again, whole = (run(counted(MODEL)[0], folder=tmp_path / name) for name in ("killed", "whole"))
    assert lasting(again.content) == lasting(whole.content)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    run(counted(MODEL)[0], folder=tmp_path / "few", max_queries=4)
    few, every = (lines(tmp_path / name) for name in ("few", "whole"))
    assert len(few) == 4
    assert few < every


def lines(folder: Path) -> set[bytes]:
    """What was certified."""
    (content,) = (content for name, content in records(folder).items() if name.endswith("certified.jsonl"))
    return set(content.splitlines())


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """Trained on digits with noise."""
    settings = {"recipe": "none-r", "model.dim": 16, "batch.pairs": 64, "optim.epochs": 2, "data.noise": 0.3}
    config = resolve_config(settings, {"validation.every": 0, "validation.share": 0})
    return train(config, tmp_path_factory.mktemp("noisy"), quiet=True, device="cpu").eval()


def test_what_is_certified_is_at_most_what_an_attack_leaves(noisy: Embedder) -> None:
    """At five radii, query by query, and both are of use: neither nothing nor everything."""
    pixels, sigma = digits(200), 0.3
    model = WrappedModel(noisy)
    with model.frozen():
        system = system_of(model, pixels)
        queries = system.queries.take(torch.arange(0, 200, 12))
        search = SmoothedSearch(Target(model, system, pixels), sigma)
        kept = Records(None)
        radii, right = certify(search, queries, 200, 0.001, records=kept, quiet=True)
        steps = (0.1, 0.3, 0.5, 1.0, 1.5)
        left = attacked(search, queries, right, steps, 0.001, records=kept, quiet=True)
    for radius in steps:
        assert not ((radii > radius) & ~left[radius]).any()
    certified = [int((radii > radius).sum()) for radius in steps]
    standing = [int(left[radius].sum()) for radius in steps]
    assert certified[0] > len(queries.ids) / 2 > certified[-1]
    assert standing == sorted(standing, reverse=True)
    assert standing[-1] < int(right.sum()) / 2


def test_the_result_says_it_all(noisy: Embedder) -> None:
    result = evaluate(noisy, digits(100), **{**QUICK, "sigma": 0.3, "draws": 100}, quiet=True)
    found = result.certified
    assert found is not None
    assert found["largest"] == pytest.approx(0.3 * 1.4985, abs=1e-3)
    assert (found["sigma"], found["draws"], found["alpha"], found["queries"]) == (0.3, 100, 0.001, 9)
    assert [one["radius"] for one in found["radii"]] == [0, 0.25, 0.5, 0.75, 1]
    assert found["radii"][1]["linf"] == pytest.approx(0.25 / 8)
    assert found["radii"][0]["kept"] + found["abstained"] == found["radii"][0]["attacked"]["kept"]
    for one in found["radii"]:
        assert one["low"] <= one["value"] <= one["high"]
        assert one["value"] <= one["attacked"]["value"]
    assert evaluate(noisy, digits(100), "benign", quiet=True).certified is None


def test_a_black_box_is_certified_and_not_attacked() -> None:
    def blind(images: Tensor) -> Tensor:
        with torch.no_grad():
            return MODEL(images)

    found = evaluate(blind, digits(), **QUICK, quiet=True).certified
    assert found is not None
    assert [one["attacked"] is None for one in found["radii"]] == [False, True, True, True, True]


def test_too_little_is_never_called_broken_or_certain() -> None:
    assert least_probability(READ // 2, READ, 0.001) < 0.5
    assert certified_radius(least_probability(9, 9, 0.001), 1.0) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma": 0.0}, "above 0"),
        ({"sigma": -1}, "above 0"),
        ({"sigma": 0.1, "draws": 9}, "at least 10"),
        ({"sigma": 0.1, "draws": 0}, "at least 1"),
        ({"sigma": 0.1, "alpha": 1.0}, "below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(HoldfastError, match=said):
        evaluate(MODEL, digits(), "benign", **settings, quiet=True)
