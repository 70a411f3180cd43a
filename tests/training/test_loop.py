"""The training loop: resume after a kill, data parallel, NaN, collapse, averaged weights, every recipe."""

import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from holdfast.core.pgd import PGD
from holdfast.core.samplers import EmbeddedBatch
from holdfast.core.steps import LInf
from holdfast.core.triplets import Triplets
from holdfast.data import Pixels
from holdfast.defense.original import Constraint
from holdfast.defense.recipes import RECIPES, parse_recipe
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.data import table_of
from holdfast.runs.folder import Place, Run, State
from holdfast.training.loop import CollapsedError, finished, train
from holdfast.training.validation import validate
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError
from tests.helpers.runs import assert_same, together, weights
from tests.helpers.tiny import interrupt
from tests.helpers.waiting import Gate, forked

SMALL = {
    "data.name": "digits",
    "model.dim": 16,
    "batch.pairs": 8,
    "pgd.steps": 2,
    "optim.epochs": 1,
    "validation.every": 0,
    "validation.attacked": 8,
    "validation.share": 0,
}
VALIDATED = {"validation__every": 1}


def settings(**changes: Any) -> Config:
    return resolve_config(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


def test_loss_falls_and_logs_lie_in_the_folder(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"recipe": "none-r", "batch__pairs": 32, "optim__epochs": 3}
    train(settings(**changes, **VALIDATED, validation__on_test=True), tmp_path, quiet=True)
    run = Run(tmp_path)
    losses = [line["loss"] for line in run.steps()]
    assert [line["step"] for line in run.steps()] == list(range(1, 97))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert [row["epoch"] for row in run.epochs()] == ["1", "2", "3"]
    assert float(run.epochs()[-1]["R@1"]) > 80
    Embedder.from_pretrained(tmp_path)
    Embedder.from_pretrained(tmp_path / "best")


@pytest.mark.parametrize(
    ("changes", "split", "count", "chosen"),
    [
        ({"validation__share": 0.1}, "validation", range(870, 931), True),
        ({"validation__share": 0}, "test", [1000], False),
        ({"validation__share": 0.1, "validation__on_test": True}, "test", [1000], True),
    ],
)
def test_best_weights_are_chosen_on_the_validation_split_and_on_the_test_set_if_asked(
    changes: dict[str, Any], split: str, count: Container[int], chosen: bool, tmp_path: Path
) -> None:
    seen: list[Pixels] = []

    def watched(config: Config, embedder: Embedder, pixels: Pixels, device: torch.device) -> Any:
        seen.append(pixels)
        return validate(config, embedder, pixels, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.training.loop.validate", watched)
        train(settings(recipe="none-r", steps=1, **VALIDATED, **changes), tmp_path, quiet=True)
    assert {name for pixels in seen for name in pixels.table.split.tolist()} == {split}
    assert len(table_of(Run(tmp_path).config()).train()) in count
    assert (tmp_path / "best").is_dir() is chosen


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(recipe: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"recipe": recipe, "steps": 2, "model__dim": 8}
    if RECIPES[recipe].keeps_original:
        Embedder(EmbedderConfig("c2f2", 8, 1, 8)).save_pretrained(tmp_path)
        changes["model__weights"] = str(tmp_path / "model.safetensors")
    train(settings(**changes), tmp_path / "run", quiet=True)
    lines = Run(tmp_path / "run").steps()
    assert len(lines) == 2
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)


def test_kill_and_resume_gives_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kills: before the first epoch ends and in a later one, with a save after every step."""
    changes = {
        "recipe": "hm-s-lga-ics",
        "optim.epochs": 2,
        "steps": 20,
        "batch.pairs": 64,
        "validation.every": 1,
        "save_minutes": 0,
        "optim.ema": 0.9,
        "optim.schedule": "cosine",
        "data.augment": True,
        "data.resize": 9,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(resolve_config(SMALL, changes), whole, quiet=True)

    gate, log_step = Gate(tmp_path / "gate"), Run.log_step
    for target in (3, 18):

        def halting(self: Run, values: Any, target: int = target) -> None:
            log_step(self, values)
            if values["step"] == target:
                gate.halt()

        with monkeypatch.context() as patch:
            patch.setattr(Run, "log_step", halting)
            process = forked(lambda: train(resolve_config(SMALL, changes), cut, resume=True, quiet=True))
        gate.arrived()
        process.kill()
        process.join()
        assert len(Run(cut).steps()) == target
    gate.close()
    train(resolve_config(SMALL, changes), cut, resume=True, quiet=True)

    assert_same(weights(whole), weights(cut))
    assert Run(whole).load_state().place == Run(cut).load_state().place
    assert timeless(whole) == timeless(cut)
    assert Run(whole).epochs() == Run(cut).epochs()


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{**line, "seconds": 0, "waited": 0} for line in Run(folder).steps()]


@pytest.mark.parametrize("short", [{"optim__epochs": 1}, {"optim__epochs": 2, "steps": 6}])
def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_begin(short: dict[str, Any], tmp_path: Path) -> None:
    usual = {"recipe": "hm-s-lga-ics", "batch__pairs": 250, "optim__ema": 0.9, **VALIDATED}
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    train(settings(**usual, optim__epochs=2), whole, quiet=True)
    for _ in range(2):
        train(settings(**usual, **short), longer, resume=True, quiet=True)
        assert [row["step"] for row in Run(longer).epochs()] == ["4", "6"][: short["optim__epochs"]]
    train(settings(**usual, optim__epochs=2), longer, resume=True, quiet=True)
    assert_same(weights(whole), weights(longer))
    assert timeless(whole) == timeless(longer)
    assert Run(whole).epochs() == Run(longer).epochs()
    assert Run(longer).config() == settings(**usual, optim__epochs=2)


@pytest.mark.parametrize(
    "changes",
    [
        *({"recipe": recipe, "data__noise": 0.3} for recipe in ("none-r", "hm-s-lga-ics", "est-r")),
        *({"recipe": "none-r", "optim__name": name, "optim__clip": 0.1} for name in ("adam", "adamw", "sgd")),
        {"optim__layer_decay": 0.5, "optim__head_lr": 0.01, "model__trainable": ["fc1", "fc2", "conv2"]},
    ],
    ids=str,
)
def test_a_run_that_is_cut_is_resumed_as_if_it_had_not_been(changes: dict[str, Any], tmp_path: Path) -> None:
    """And what is asked for changes what is learnt."""
    usual: dict[str, Any] = {"recipe": "hm-s-lga-ics", "model__dim": 8, "steps": 4}
    train(settings(**{**usual, **changes}), tmp_path / "whole", quiet=True)
    train(settings(**{**usual, **changes, "steps": 2}), tmp_path / "cut", quiet=True)
    train(settings(**{**usual, **changes}), tmp_path / "cut", quiet=True, resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    train(settings(**{**usual, "recipe": changes.get("recipe", usual["recipe"])}), tmp_path / "plain", quiet=True)
    assert Run(tmp_path / "plain").steps()[-1]["loss"] != Run(tmp_path / "whole").steps()[-1]["loss"]


def test_lga_state_is_saved(tmp_path: Path) -> None:
    train(settings(recipe="hm-s-lga", steps=3), tmp_path, quiet=True)
    saved = weights(tmp_path)["defense/goal.destination.left.loss"]
    assert saved.item() == pytest.approx(Run(tmp_path).steps()[-1]["triplet_loss"])


def test_nan_stops_the_run_names_the_batch_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward: Callable[..., Tensor] = Embedder.forward
    calls = 0

    def broken(self: Embedder, images: Tensor) -> Tensor:
        nonlocal calls
        calls += self.training
        z = forward(self, images)
        return z * torch.nan if self.training and calls == 70 else z

    monkeypatch.setattr(Embedder, "forward", broken)
    with pytest.raises(HoldfastError, match=r"step 70: the loss is nan.*digits train\[\d+\]") as caught:
        train(settings(recipe="none-r", batch__pairs=32, optim__epochs=3), tmp_path, quiet=True)
    assert "state.safetensors" in str(caught.value)
    names = (tmp_path / "failed-batch-0.txt").read_text().split("\n")
    assert names[0].startswith("digits train[")
    state = Run(tmp_path).load_state()
    assert state.place.step == 64
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())


def test_a_non_finite_perturbation_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Callable[..., Tensor] = Embedder.forward
    monkeypatch.setattr(Embedder, "forward", lambda self, x: forward(self, x) * (torch.nan if x.requires_grad else 1.0))
    with pytest.raises(HoldfastError, match=r"step 1: \d+ of \d+ perturbed groups are not finite.*no state had been"):
        train(settings(recipe="act-r"), tmp_path, quiet=True)
    assert len((tmp_path / "failed-batch-0.txt").read_text().splitlines()) == 16


class Constant(nn.Module):
    """An embedder whose embeddings all coincide."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_collapsed_run_says_so_and_stops_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"recipe": "none-r", "optim__epochs": 3, "batch__pairs": 128, **VALIDATED}
    with pytest.raises(CollapsedError, match=r"warmup\.epochs"):
        train(settings(**changes), tmp_path / "stops", backbone=Constant())
    assert capsys.readouterr().out.count("COLLAPSED") == 2
    assert len(Run(tmp_path / "stops").epochs()) == 2
    train(settings(**changes, stop_on_collapse=False), tmp_path / "goes-on", backbone=Constant(), quiet=True)
    assert len(Run(tmp_path / "goes-on").epochs()) == 3


def test_warmup_trains_plainly_and_the_ramp_raises_the_radius(tmp_path: Path) -> None:
    changes = {"recipe": "minmax-r", "warmup__epochs": 1, "warmup__ramp": 1, "batch__pairs": 128, "steps": 20}
    train(settings(**changes, optim__epochs=2), tmp_path, quiet=True)
    lines = Run(tmp_path).steps()
    warm, ramp, full = lines[:8], lines[8:16], lines[16:]
    assert all("moved" not in line for line in warm)
    assert all(line["moved"] == 1 for line in ramp + full)
    gain = [line["hardness"] - line["source_hardness"] for line in lines[8:]]
    assert gain[0] < 0.5 * gain[8]


def test_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    average = train(settings(steps=3, optim__ema=0.5), tmp_path, quiet=True)
    tensors = weights(tmp_path)
    names = [key.removeprefix("model/") for key in tensors if key.startswith("model/")]
    kept = Embedder.from_pretrained(tmp_path).state_dict()
    for key in names:
        assert torch.equal(kept[key], tensors[f"average/{key}"])
        assert torch.equal(average.state_dict()[key], tensors[f"average/{key}"])
    assert any(not torch.equal(tensors[f"model/{key}"], tensors[f"average/{key}"]) for key in names)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.25), ("cosine", 0.1464466)])
def test_schedules(schedule: str, last: float, tmp_path: Path) -> None:
    train(settings(recipe="none-r", steps=4, optim__schedule=schedule), tmp_path, quiet=True)
    rates = [line["lr"] for line in Run(tmp_path).steps()]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[3] == pytest.approx(1e-3 * last)


def test_bfloat16_trains_nearly_as_float32(tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        train(settings(recipe="act-r", precision=precision, steps=2), tmp_path / precision, quiet=True)
    wide, narrow = (Run(tmp_path / precision).steps() for precision in ("float32", "bfloat16"))
    assert narrow[0]["loss"] == pytest.approx(wide[0]["loss"], rel=0.02)
    assert narrow[0]["gradient"] == pytest.approx(wide[0]["gradient"], rel=0.1)
    assert narrow[0]["loss"] != wide[0]["loss"]


def test_frozen_batchnorm_keeps_its_statistics_and_trained_ones_move(tmp_path: Path) -> None:
    small = {"model.backbone": "resnet18", "data.size": 16, "steps": 1, "recipe": "hm-s-lga"}
    for mode, moves in {"frozen": False, "auto": True, "train": True}.items():
        train(resolve_config(SMALL, small, {"model.batchnorm": mode}), tmp_path / mode, quiet=True)
        mean = weights(tmp_path / mode)["model/backbone.bn1.running_mean"]
        assert bool(mean.abs().sum() > 0) is moves


def nearby(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """Triplets that stay within a share of 16 images, whichever share: anchor, its partner, the image two on."""
    return Triplets(batch.anchors, batch.anchors + 1, (batch.anchors // 16) * 16 + (batch.anchors % 16 + 2) % 16)


def gradients(out: Path, held: bool) -> None:
    """Save what a process finds in a few steps on its share of 32 images; ``held`` near the original network."""
    with distributed.process_group(torch.device("cpu")):
        rank, world = distributed.rank(), distributed.world()
        generator = Generator().manual_seed(1)
        images, labels = torch.rand(32, 1, 6, 6, generator=generator), torch.arange(16).repeat_interleave(2)
        share = slice(rank * 32 // world, (rank + 1) * 32 // world)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 8), UnitLength())
        defense: Any = parse_recipe("hm-s-lga-ics").build(PGD(LInf(0.1), 0.03, 4))
        defense.source = nearby
        if held:
            defense.constraint = Constraint(0.01)
            defense.begin(net, images[:2])
            distributed.share(defense.state_dict().values())
        found: dict[str, Tensor] = {}
        for step in range(7 if held else 2):
            net.zero_grad()
            defense(net, images[share], labels[share]).loss.backward()
            shared = [one.grad for one in net.parameters() if one.grad is not None]
            distributed.average(shared)
            found |= {f"{step}/{i}": gradient.clone() for i, gradient in enumerate(shared)}
            found[f"{step}/last"] = defense.goal.destination.left.loss.clone()
            if held:
                found |= {f"{step}/λ{i}": one.detach().clone() for i, one in enumerate(defense.constraint.parameters())}
            with torch.no_grad():
                for one, gradient in zip(net.parameters(), shared, strict=True):
                    one.sub_(gradient)
        torch.save(found, out / f"{world}-{rank}.pt")


class UnitLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_two_processes_find_the_gradients_of_one_on_the_whole_batch(held: bool, tmp_path: Path) -> None:
    """Perturbation, intra-class structure and LGA's averaged loss included, over two steps; and, over seven, the
    multipliers that hold the embeddings near the original's."""
    together(lambda: gradients(tmp_path, held))
    gradients(tmp_path, held)
    whole = torch.load(tmp_path / "1-0.pt")
    shares = [torch.load(tmp_path / f"2-{rank}.pt") for rank in range(2)]
    for name, expected in whole.items():
        for share in shares:
            torch.testing.assert_close(share[name], expected, rtol=1e-4, atol=1e-6)
    assert whole["1/0"].abs().max() > 1e-4
    assert not held or not torch.equal(whole["4/λ3"], whole["5/λ3"])


def test_two_processes_make_one_run(tmp_path: Path) -> None:
    """One set of logs, the whole batch shared out."""
    config = settings(recipe="none-r", steps=3, batch__pairs=16, **VALIDATED)
    together(lambda: train(config, tmp_path, quiet=True))
    run = Run(tmp_path)
    assert [line["step"] for line in run.steps()] == [1, 2, 3]
    assert json.loads((tmp_path / "environment.json").read_text())["processes"] == 2
    assert run.cost()["passes"] == 3 * 32, "those of both, 32 images a step"
    assert len(run.epochs()) == 1


@pytest.mark.parametrize(
    ("place", "changes", "ended"),
    [
        ({}, {}, False),
        ({"epoch": 2, "step": 250}, {}, False),
        ({"epoch": 2, "batch": 124, "step": 374}, {}, False),
        ({"epoch": 3, "step": 375}, {}, True),
        ({"epoch": 2, "step": 250}, {"warmup__epochs": 0}, True),
        ({"epoch": 0, "batch": 9, "step": 9}, {"steps": 10}, False),
        ({"epoch": 1, "step": 10}, {"steps": 10}, True),
        ({"epoch": 3, "step": 375}, {"steps": 1000}, True),
        ({"epoch": 1, "step": 125, "collapsed": 1}, {}, False),
        ({"epoch": 2, "step": 250, "collapsed": 2}, {}, True),
        ({"epoch": 2, "step": 250, "collapsed": 2}, {"stop_on_collapse": False}, False),
    ],
)
def test_a_run_has_ended_with_its_last_step_or_a_collapse(
    place: dict[str, Any], changes: dict[str, Any], ended: bool, tmp_path: Path
) -> None:
    """By the settings that it is to have, which need not be those that it was begun with."""
    run, usual = Run(tmp_path), {"warmup__epochs": 1, "optim__epochs": 2}
    run.begin(settings(**usual), resume=False)
    if place:
        run.save_state(State({"model/w": torch.ones(1)}, Place(**place)))
    assert finished(run, settings(**{**usual, **changes})) is ended


def test_training_to_the_end_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends: by epochs, by steps, by a collapse; and not where it is interrupted."""
    small = {"recipe": "none-r", "model__dim": 8, "validation__attacked": 0}
    train(settings(**small, steps=2), tmp_path / "steps", quiet=True)
    train(settings(**small, batch__pairs=500), tmp_path / "epochs", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.training.loop._Training._log_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(settings(**small, steps=2, save_minutes=0), tmp_path / "cut", quiet=True)
    changes = {**small, **VALIDATED, "model__dim": 16, "optim__epochs": 3, "batch__pairs": 500}
    with pytest.raises(CollapsedError):
        train(settings(**changes), tmp_path / "collapsed", backbone=Constant(), quiet=True)
    found = {folder.name: finished(Run(folder), Run(folder).config()) for folder in sorted(tmp_path.iterdir())}
    assert found == {"collapsed": True, "cut": False, "epochs": True, "steps": True}
