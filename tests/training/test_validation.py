"""What training looks at between epochs, against embedders whose reach is known by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import Config, resolve_config
from holdfast.training.validation import ATTACKED, BLOCK, merit, validate

CPU = torch.device("cpu")


class Mean(nn.Module):
    """Images to their mean pixel, (B, 1, 3, 3) -> (B, 2): a change of every pixel by ε moves it by ε."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).double().mean(1)
        return torch.stack([mean, torch.zeros_like(mean)], dim=1)


def settings(eps: float, attacked: int = 256) -> Config:
    return resolve_config({"pgd.eps": eps, "pgd.step": eps / 4, "validation.attacked": attacked})


def shades(levels: list[int], labels: list[int]) -> Pixels:
    images = np.broadcast_to(np.array(levels, np.uint8)[:, None, None], (len(levels), 3, 3)).copy()
    return Pixels(Table.build("shades", images, labels, ["test"] * len(levels)), 3, channels=1)


def two_classes() -> Pixels:
    """Twenty images around a shade of 60, twenty around one of 160: 100 / 255 apart."""
    return shades([*range(50, 70), *range(150, 170)], [0] * 20 + [1] * 20)


def test_recall_falls_once_the_radius_reaches_the_other_class() -> None:
    found = [validate(settings(eps / 255), Mean(), two_classes(), CPU)[0] for eps in (0, 10, 30, 80)]  # type: ignore[arg-type]
    recalls = [scores[ATTACKED] for scores in found]
    assert [scores["R@1"] for scores in found] == [100] * 4
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[:3] == [100, 100, 100]
    assert recalls[3] < 60


def test_an_image_is_not_its_own_answer() -> None:
    scores, _ = validate(settings(1 / 255), Mean(), shades([50, 150, 55, 155], [0, 0, 1, 1]), CPU)  # type: ignore[arg-type]
    assert scores[ATTACKED] == 0


def test_without_a_radius_the_clean_recall_is_found() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("c2f2", dim=8, channels=1, size=8))
    images = np.random.default_rng(0).integers(0, 256, (BLOCK + 22, 8, 8), np.uint8)
    labels = np.arange(len(images)) % 30
    pixels = Pixels(Table.build("noise", images, labels, ["test"] * len(images)), 8, channels=1)
    scores, fallen = validate(settings(0.0, len(images)), embedder, pixels, CPU)
    with embedder.frozen(), torch.no_grad():
        z = embedder(pixels.read(torch.arange(len(images)))[0])
    ids = torch.arange(len(z))
    clean = retrieval_metrics(Queries(z, torch.from_numpy(labels), ids), Gallery(z, torch.from_numpy(labels), ids))
    assert scores[ATTACKED] == pytest.approx(clean["R@1"])
    assert 0 < clean["R@1"] < 100
    assert not fallen


@pytest.mark.parametrize("seed", range(3))
def test_only_queries_with_an_answer_are_attacked(seed: int) -> None:
    """Of class 0 no image is in the gallery; class 2 is far from all."""
    images = np.zeros((9, 3, 3), np.uint8)
    images[8] = 255
    asks, kept = (np.array(side, np.bool_) for side in ([1] * 5 + [0] * 4, [0] * 4 + [1] * 5))
    table = Table.build("sided", images, [0] * 4 + [1] * 4 + [2], ["test"] * 9, is_query=asks, is_gallery=kept)
    config = resolve_config({"pgd.eps": 0.1, "validation.attacked": 1, "seed": seed})
    scores, _ = validate(config, Mean(), Pixels(table, 3, channels=1), CPU)  # type: ignore[arg-type]
    assert scores[ATTACKED] == 100


def test_no_queries_no_attack() -> None:
    scores, _ = validate(settings(0.1, attacked=0), Mean(), two_classes(), CPU)  # type: ignore[arg-type]
    assert math.isnan(scores[ATTACKED])
    assert merit(scores) == scores["R@1"] == 100
    assert merit({"R@1": 80.0, ATTACKED: 20.0}) == 50


def test_the_same_queries_meet_the_same_attack_each_time() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("c2f2", dim=8, channels=1, size=3 + 5))
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
    pixels = Pixels(Table.build("noise", images, np.arange(40) % 5, ["test"] * 40), 8, channels=1)
    first, again = (validate(settings(0.02, 16), embedder, pixels, CPU)[0] for _ in range(2))
    assert first == again


def test_the_embedder_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, channels=1, size=8))
    embedder.backbone.get_submodule("layer2").eval()
    first = next(embedder.parameters()).requires_grad_(False)
    modes = [module.training for module in embedder.modules()]
    state = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    images = torch.randint(256, (8, 8, 8), generator=Generator().manual_seed(0)).to(torch.uint8).numpy()
    pixels = Pixels(Table.build("noise", images, np.arange(8) % 2, ["test"] * 8), 8, channels=1)
    validate(settings(0.05, 8), embedder, pixels, CPU)
    assert [module.training for module in embedder.modules()] == modes
    assert [p for p in embedder.parameters() if not p.requires_grad] == [first]
    assert all(p.grad is None for p in embedder.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in embedder.state_dict().items())
