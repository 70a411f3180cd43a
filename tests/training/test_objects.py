"""Training with objects of one's own in place of names: a defense, and the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from holdfast.core.objectives import Objective
from holdfast.core.pgd import PGD
from holdfast.core.samplers import SAMPLERS, EmbeddedBatch
from holdfast.core.steps import LInf
from holdfast.core.triplets import ANCHOR, NEGATIVE, Triplets
from holdfast.defense.base import (
    AdversarialTriplets,
    Defense,
    Goal,
    Learning,
    ReachHardness,
    ShiftedBatch,
    Step,
    TripletDefense,
)
from holdfast.defense.destinations import Destination
from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.evaluate import evaluate
from holdfast.explorer.scene import open_scene
from holdfast.models.backbones import find_backbone
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import pgd_of
from holdfast.training.loop import train
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import read_yaml
from tests.conftest import Call
from tests.helpers.runs import assert_same, together, weights
from tests.helpers.tiny import interrupt

SMALL: dict[str, Any] = {
    "data.name": "digits",
    "model.dim": 16,
    "batch.pairs": 64,
    "pgd.steps": 2,
    "optim.epochs": 2,
    "steps": 20,
    "validation.every": 0,
}


def settings(**changes: Any) -> Config:
    return resolve_config(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


def network(dim: int = 16, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, dim))


def second_nearest(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    distances = batch.distances.masked_fill(~batch.other, torch.inf)
    return Triplets(batch.anchors, batch.partner, distances.topk(2, largest=False).indices[:, 1])


class Rising(Destination):
    """From -0.2 up to 0 within ten steps."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Tensor:
        return (-0.2 + 0.02 * self.steps.clamp(max=10)).expand(len(batch.anchors))

    def observe(self, loss: Tensor) -> None:
        self.steps += 1


class AnchorAndNegative(Goal):
    """Two of the three images move, toward a hardness."""

    roles = [ANCHOR, NEGATIVE]  # noqa: RUF012

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
        class Nearer:
            floor = 0.0

            def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
                return (z[:, 0] - z[:, 1]).norm(dim=1)

        return Nearer()


def own_defense() -> Defense:
    return AdversarialTriplets(second_nearest, Learning(), PGD(LInf(0.2), 0.1, 2), ReachHardness(Rising()))


# --- what is trained


@pytest.mark.parametrize("recipe", ["hm-s-lga-ics", "est-r", "none-m"])
def test_a_recipe_s_own_defense_and_network_give_its_weights(recipe: str, tmp_path: Path) -> None:
    """Given as objects they train as by name, to the last bit; only their names in the settings differ."""
    config = settings(recipe=recipe, steps=4, optim__ema=0.5)
    torch.manual_seed(config.seed)
    backbone = find_backbone("c2f2").network(16, 1, 8)
    defense = parse_recipe(recipe).build(pgd_of(config), config.loss)
    train(config, tmp_path / "named", quiet=True)
    trained = train(config, tmp_path / "given", defense=defense, backbone=backbone, quiet=True)
    assert_same(weights(tmp_path / "named"), weights(tmp_path / "given"))
    written = read_yaml(tmp_path / "given" / "config.yaml")
    assert (written["recipe"], written["model"]["backbone"]) == ("custom", "custom")
    assert Run(tmp_path / "given").config().recipe == "custom"
    assert trained.config.backbone == "custom"


def test_what_is_given_stays_as_it_is(tmp_path: Path) -> None:
    defense, backbone = own_defense(), network()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    train(settings(steps=3, warmup__ramp=1), tmp_path / "run", defense=defense, backbone=backbone, quiet=True)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert isinstance(defense, AdversarialTriplets)
    assert defense.pgd == PGD(LInf(0.2), 0.1, 2)
    assert defense.state_dict()["goal.destination.steps"] == 0
    assert weights(tmp_path / "run")["defense/goal.destination.steps"] == 3


def test_own_sampler_goal_and_destination_are_put_to_work(tmp_path: Path) -> None:
    train(settings(steps=12), tmp_path / "rising", defense=own_defense(), quiet=True)
    found = [line["destination_hardness"] for line in Run(tmp_path / "rising").steps()]
    assert found == pytest.approx([min(-0.2 + 0.02 * i, 0) for i in range(12)], abs=1e-6)
    goal = AdversarialTriplets(SAMPLERS["R"], Learning(), PGD(LInf(0.2), 0.1, 2), AnchorAndNegative())
    train(settings(steps=2), tmp_path / "two", defense=goal, quiet=True)
    assert all(
        line["moved"] > 0.9 and line["hardness"] > line["source_hardness"] for line in Run(tmp_path / "two").steps()
    )


class Uncounted(TripletDefense):
    """A defense from scratch, which logs the least there is."""

    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        z = embedder(images)
        assert labels is not None
        loss = self.learn(self.source(EmbeddedBatch.of(z, labels, anchors), generator).take(z))[0]
        return Step(loss, {"loss": loss.detach()})


def test_a_defense_need_not_count_its_passes(tmp_path: Path) -> None:
    train(settings(steps=2), tmp_path, defense=Uncounted(SAMPLERS["R"], Learning()), quiet=True)
    assert all(line["loss"] > 0 and "passes" not in line for line in Run(tmp_path).steps())
    assert Run(tmp_path).cost()["passes"] == 0


def test_est_s_objective_is_its_own_to_choose(tmp_path: Path) -> None:
    asked: list[tuple[int, ...]] = []

    class Watched(ShiftedBatch):
        def objective(self, clean: Tensor) -> Objective:
            asked.append(tuple(clean.shape))
            return super().objective(clean)

    config = settings(steps=2, recipe="est-r")
    train(config, tmp_path / "named", quiet=True)
    defense = Watched(SAMPLERS["R"], Learning(), pgd_of(config))
    train(config, tmp_path / "given", defense=defense, quiet=True)
    assert asked == [(128, 1, 16)] * 2
    assert_same(weights(tmp_path / "named"), weights(tmp_path / "given"))


# --- resume


@pytest.mark.parametrize("reused", [True, False], ids=["the same objects", "made anew"])
def test_a_cut_run_goes_on_with_its_objects_as_if_never_cut(reused: bool, tmp_path: Path) -> None:
    """Cut while the radius rises, so that a defense left as it was then would show."""
    config = settings(warmup__ramp=2, optim__ema=0.9, save_minutes=0, data__augment=True, data__resize=9)
    objects: Callable[[], dict[str, Any]] = lambda: {"defense": own_defense(), "backbone": network()}  # noqa: E731
    given = objects()
    train(config, tmp_path / "whole", **objects(), quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.training.loop._Training._log_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut", **given, quiet=True)
    assert 0 < Run(tmp_path / "cut").load_state().place.step < 20
    train(config, tmp_path / "cut", **(given if reused else objects()), resume=True, quiet=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_resuming_without_the_objects_or_with_others_is_refused(tmp_path: Path) -> None:
    config = settings(steps=2)
    train(config, tmp_path, defense=own_defense(), backbone=network(), quiet=True)
    given: dict[str, Any] = {"defense": own_defense(), "backbone": network()}
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    plain = parse_recipe("none-r").build(pgd_of(config))
    refusals: list[tuple[Config, dict[str, Any], str]] = [
        (config, {}, "begun with other settings.*recipe: 'custom' -> 'hm-s-lga-ics'"),
        (config, {**given, "backbone": None}, "model.backbone: 'custom' -> 'c2f2'"),
        (Run(tmp_path).config(), {}, "recipe 'custom' stands for a Defense object: give it again"),
        (Run(tmp_path).config(), {**given, "backbone": None}, "backbone 'custom' stands for a module: give it again"),
        (config, {**given, "backbone": narrow}, r"is no state of this run: Error\(s\) in loading state_dict"),
        (config, {**given, "defense": plain}, r"is no state of this run: .*goal\.destination\.steps"),
    ]
    before = weights(tmp_path)
    for settings_of, objects, message in refusals:
        with pytest.raises(HoldfastError, match=message) as caught:
            train(settings_of, tmp_path, **objects, resume=True, quiet=True)
        assert "\n" not in str(caught.value)
    assert_same(before, weights(tmp_path))
    train(Run(tmp_path).config(), tmp_path, **given, resume=True, quiet=True)


def test_a_saved_embedder_takes_its_network_again(tmp_path: Path) -> None:
    trained = train(settings(steps=2), tmp_path, backbone=network(), quiet=True).eval()
    images = torch.rand(3, 1, 8, 8)
    loaded = Embedder.from_pretrained(tmp_path, backbone=network(seed=5))
    assert torch.equal(loaded(images), trained(images))
    with pytest.raises(HoldfastError, match=r"^backbone 'custom' stands for a module: give it again, as backbone=…$"):
        Embedder.from_pretrained(tmp_path)


def test_a_run_of_a_custom_recipe_is_evaluated_reported_exported_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    train(settings(steps=2), "mine", defense=own_defense(), quiet=True)
    result = evaluate("mine", steps=1, max_queries=4, checks=False, quiet=True, device="cpu")
    model = result.content["model"]
    assert (model["recipe"], model["training_steps"]) == ("custom", None)
    assert model["training"]["settings"]["recipe"] == "custom"
    for style in ("markdown", "csv", "json", "html"):
        assert call("report", "mine", "--format", style, "--out", f"report.{style}")[0] == 0
        assert "mine" in Path(f"report.{style}").read_text()
    assert call("report", "mine", "--published")[0] == 0
    assert call("export", "mine", "--format", "hub", "--out", "card")[0] == 0
    assert "a defense of its author's own" in Path("card/README.md").read_text()
    with open_scene(["mine"], images=20, device="cpu", quiet=True) as scene:
        assert scene.models[0].about == "custom"


# --- refusals, before anything is written


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Stubborn":
        raise RuntimeError("only one of me")


@pytest.mark.parametrize(
    ("changes", "objects", "message"),
    [
        ({}, {"defense": "est-r"}, "defense is a Defense, not 'est-r': names go into the settings"),
        ({}, {"defense": parse_recipe("est-r")}, "defense is a Defense, not a Recipe"),
        ({}, {"backbone": "resnet18"}, "backbone is a Module, not 'resnet18'"),
        ({}, {"backbone": lambda x: x}, "backbone is a Module, not a function"),
        ({}, {"backbone": nn.Linear(3, 16)}, r"the backbone given does not take pixels \(2, 1, 8, 8\): RuntimeError"),
        ({}, {"backbone": nn.Flatten()}, "the backbone given has no parameters to train"),
        ({}, {"backbone": Stubborn(3, 16)}, "the defense or backbone given cannot be copied: RuntimeError: only one"),
        ({"recipe": "custom"}, {}, r"recipe 'custom' stands for a Defense object.*holdfast\.train\(…, defense=…\)"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    changes: dict[str, Any], objects: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        train(settings(**changes), tmp_path / "run", **objects, quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_custom_recipe_is_warmed_up_as_a_defense_is() -> None:
    photos = {"data.name": "folder", "data.root": "photos"}
    assert resolve_config(photos, {"recipe": "custom"}).warmup == resolve_config(photos, {"recipe": "est-r"}).warmup
    assert resolve_config(photos, {"recipe": "custom"}).warmup != resolve_config(photos, {"recipe": "none-r"}).warmup


# --- by name, from a file of one's own

BUILDER = """
from torch import nn

def build(dim, channels, size):
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, dim))
    network.mean, network.std = 0.3, (0.35,)
    return network
"""


def test_a_backbone_from_a_file_trains_is_evaluated_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(BUILDER)
    options = [f"--set={key}={value}" for key, value in {**SMALL, "steps": 2}.items()]
    command = ("train", "--recipe", "none-r", "--backbone", "net.py:build", *options, "--out", "run", "--device", "cpu")
    assert call(*command)[0] == 0
    embedder = Embedder.from_pretrained("run")
    assert (embedder.config.backbone, embedder.mean.item(), embedder.std.item()) == (
        "net.py:build",
        pytest.approx(0.3),
        pytest.approx(0.35),
    )
    assert Run("run").config().model.backbone == "net.py:build"
    assert call("evaluate", "run", "--protocol", "benign", "--device", "cpu")[0] == 0
    assert call(*command, "--resume")[0] == 0


def test_processes_that_build_other_weights_train_those_of_the_first(tmp_path: Path) -> None:
    few = settings(model__dim=8, batch__pairs=16, steps=2)

    def work() -> None:
        with distributed.process_group(torch.device("cpu")):
            mine = network(8, seed=distributed.rank())
            trained = train(few, tmp_path / "run", backbone=mine, device="cpu", quiet=True)
            torch.save((mine.state_dict(), trained.backbone.state_dict()), tmp_path / f"{distributed.rank()}.pt")

    together(work)
    (begun, one), (other, two) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(begun["1.weight"], other["1.weight"])
    assert_same(one, two)
    assert (one["1.weight"] - begun["1.weight"]).abs().max() < 0.02 < (one["1.weight"] - other["1.weight"]).abs().max()
