"""The model card says what was measured, nothing else, and its code and commands work."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.settings import resolve_settings
from holdfast.export import export
from holdfast.export.card import DECIMALS, card, checks, command, cost, figures, front, threat, way
from holdfast.export.source import Source, frozen_copy, open_run
from holdfast.report import Result, find
from holdfast.report.tables import measures_of
from holdfast.runs.config import differences, resolve_config
from holdfast.runs.data import family_of
from holdfast.runs.folder import Run
from holdfast.util.validate import read_yaml
from tests.conftest import Call
from tests.helpers.tiny import embedder

ROOT = Path(__file__).parents[2]
SOURCE = Source(frozen_copy(embedder()), "mine", resolve_config({"data.name": "digits"}), "last", (), {}, True)
QUICK: dict[str, Any] = {"steps": 2, "max_queries": 8, "cascade": False, "quiet": True, "device": "cpu"}


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits with two evaluations, one of them checked."""
    folder = shutil.copytree(digits_run, tmp_path_factory.mktemp("work") / "runs" / "tiny")
    evaluate(folder, eps=0.1, **QUICK)
    evaluate(folder, None, "cvpr22", checks=False, **QUICK)
    return folder


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    return export(run, "hub", run.parents[1] / "hub" / "tiny")[0]


def test_the_hub_reads_every_figure(run: Path, folder: Path) -> None:
    data = ModelCard.load(folder / "README.md").data
    assert data.library_name == "holdfast"
    assert data.pipeline_tag == "image-feature-extraction"
    results = open_run(run).results
    wanted = {
        (f"{name} ({way(result)})", round(value, DECIMALS))
        for result in results
        for name in measures_of([result])
        if (value := result.number(name)) is not None
    }
    assert len(wanted) > 30
    assert {(one.metric_name, one.metric_value) for one in data.eval_results} == wanted
    assert {(one.dataset_name, one.task_type) for one in data.eval_results} == {("digits", "image-feature-extraction")}


def test_the_text_has_scores_intervals_and_checks(run: Path, folder: Path) -> None:
    text = (folder / "README.md").read_text()
    strict, cvpr22 = open_run(run).results
    assert (strict.protocol, cvpr22.protocol) == ("strict", "cvpr22")
    bounds = strict.interval("ERS")
    assert bounds is not None
    assert f"| ERS | {strict.number('ERS'):.1f} ({bounds[0]:.1f} to {bounds[1]:.1f}) |" in text
    assert f"| verdict | {strict.verdict} | {cvpr22.verdict} |" in text
    assert cvpr22.verdict == "unchecked, too few queries"
    assert all(one["detail"] in text for one in strict.content["checks"])
    assert "each pixel by up to 25.5/255, pixels being in [0, 1], in 2 steps from 25.5/255" in text
    assert "knows the network and its gradients. Attacked: 8 of 797 queries" in text
    assert "no certificate" in text
    assert "without a defense" not in text
    assert "It took 2 steps, " in text
    assert "not come to its end" not in text


def test_its_code_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["vectors"].shape == (2, 8)
    torch.testing.assert_close(names["vectors"].norm(dim=1), torch.ones(2))


def test_its_commands_repeat_it(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    """Given to the run itself the evaluations find their results; the settings are those of the run."""
    monkeypatch.chdir(run.parents[1])
    lines = re.findall(r"^    holdfast (.*)$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    assert lines[0] == "train --config config.yaml --out runs/tiny"
    assert differences(resolve_config(read_yaml(folder / "config.yaml")), Run(run).config()) == []
    before = {result.path for result in find([run])}
    for line in lines[1:]:
        assert call(*line.split(), "--device", "cpu")[0] == 0
    assert {result.path for result in find([run])} == before
    assert len(lines) == 3


def test_without_evaluations_it_says_so() -> None:
    text = card(SOURCE)
    assert "Nothing yet: this model has not been evaluated" in text
    assert "What it took is not known." in text
    assert "model-index" not in text
    assert "| R@1" not in text
    assert front(SOURCE).keys() == {"library_name", "pipeline_tag", "tags"}
    assert yaml.safe_load(text.split("---\n")[1]) == front(SOURCE)
    assert ModelCard(text).data.eval_results is None


def test_what_else_there_is_to_know() -> None:
    plain = replace(
        SOURCE, config=resolve_config({"data.name": "digits", "recipe": "none-r"}), ended=False, weights="best"
    )
    text = card(plain, "bfloat16")
    assert "trained **without a defense**" in text
    assert "adversary in training" not in text
    assert "**Training had not come to its end**" in text
    assert "the weights of the best validation." in text
    on_test = resolve_config({"data.name": "digits", "validation.on_test": True})
    assert "best validation, **chosen on the test set**." in card(replace(plain, config=on_test))
    assert "stored in bfloat16, rounded" in text
    begun = {"data.name": "cub", "data.root": "x", "model.weights": "start.pth"}
    text = card(replace(SOURCE, config=resolve_config(begun)))
    assert "train --config config.yaml --root DATA --weights WEIGHTS --out runs/mine" in text
    assert "pretrained weights" in text


def test_a_defense_or_a_network_of_one_s_own_is_said_to_be_one() -> None:
    config = replace(SOURCE.config, recipe="custom")
    text = card(replace(SOURCE, config=config))
    assert "trained on `digits` by a defense of its author's own, with" in text
    assert "it takes, with the settings" not in text
    assert "`holdfast.train(…, defense=…)` takes it" in text
    assert "holdfast train" not in text
    assert "adversary in training" not in text
    assert "without a defense" not in text
    assert "backbone=network" not in text
    coded = frozen_copy(embedder())
    coded.config = replace(coded.config, backbone="net.py:build")
    text = card(replace(SOURCE, embedder=coded))
    assert "# network: what net.py:build builds, of dim 16, 1 channel, size 8" in text
    assert 'Embedder.from_pretrained(".", backbone=network)' in text


def test_an_interrupted_run_is_known_by_its_state(run: Path, tmp_path: Path) -> None:
    assert open_run(run).ended
    config = Run(run).config()
    changed = replace(config, steps=None)
    other = tmp_path / "run"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "state.safetensors"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "config.yaml").write_text(changed.to_yaml())
    assert not open_run(other).ended


def test_results_of_earlier_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    """A run trained further since is not what was measured."""
    shutil.copytree(run, tmp_path / "run")
    assert len(open_run(tmp_path / "run").results) == 2
    Run(tmp_path / "run").log_step({"step": 3, "passes": 10, "seconds": 1.0})
    source = open_run(tmp_path / "run")
    assert source.results == ()
    _, _, notes = export(tmp_path / "run", "hub", tmp_path / "hub")
    (note,) = notes
    assert note.startswith("left out, of earlier weights by their cost of training: ")
    assert all(result.path is not None and result.path.parent.name in note for result in open_run(run).results)


def test_other_attackers_are_told_apart(run: Path) -> None:
    strict = open_run(run).results[0]

    def changed(surrogate: str | None = None, **settings: Any) -> Result:
        content = strict.content
        model = {**content["model"], "surrogate": surrogate}
        return Result(strict.path, {**content, "model": model, "settings": {**content["settings"], **settings}})

    assert "asks for embeddings only (Square)" in threat(changed(gradient="square"))
    assert "sees another network only" in threat(changed("12345678"))
    assert "3 restarts" in threat(changed(restarts=3))
    assert "by the cascade alone, and" in threat(changed(attacks=[], cascade=True))
    euclidean = changed(norm="l2", eps=2.0, step=0.25)
    assert "all pixels together by up to 2 (Euclidean norm)" in threat(euclidean)
    assert "steps of 0.25" in threat(euclidean)
    config = Run(run).config()
    assert "--eps 2.0 --step 0.25 --steps 2 --norm l2" in command(euclidean, "x", config)
    assert command(changed(attacks=["es"]), "x", config).endswith("--attack es")
    told = command(changed(attacks=["es", "my-attack.2"]), "x", config)
    assert told.startswith("# strict, ε = ")
    assert told.endswith("holdfast.evaluate(…, attacks=[…]) takes the author's own attack my-attack.2")
    assert changed("12345678").protocol == "strict, transfer"


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ("strict", {}),
        ("strict", {"eps": 8 / 255, "steps": 5, "minimal_eps": True}),
        ("strict", {"cascade": False, "max_queries": 7, "norm": "l2", "eps": 2.0}),
        ("strict", {"gradient": "square", "query_budget": 100}),
        ("worst", {"eps": 0.03, "seed": 3}),
        ("worst", {"sigma": 0.5, "draws": 200}),
        ("benign", {}),
        ("benign", {"sigma": 0.25, "max_queries": 9}),
        ("cvpr22", {"precision": "bfloat16"}),
    ],
)
def test_a_command_has_the_settings_of_its_result(run: Path, protocol: str, given: dict[str, Any]) -> None:
    (first, *_) = find([run])
    config = Run(run).config()
    settings = resolve_settings(family_of(config), protocol, **given)
    content = {**first.content, "protocol": protocol, "settings": settings.plain(), "checks": [{"passed": True}]}
    words = command(replace(first, content=content), "x", config).split()
    assert words[:5] == ["holdfast", "evaluate", "runs/x", "--protocol", protocol]
    asked: dict[str, Any] = {}
    for word in words[5:]:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            asked[name] = True
        else:
            asked[name] = int(word) if word.isdecimal() else word
    asked |= {"cascade": False} if asked.pop("quick", False) else {}
    assert asked.pop("certify", False) == ("sigma" in asked)
    assert resolve_settings(family_of(config), protocol, **asked).plain() == settings.plain()


def test_cost_is_said_as_far_as_it_is_known() -> None:
    assert cost({}) == ""
    assert cost({"steps": 3752, "passes": 1.5e6, "seconds": 4000}) == (
        "3,752 steps, 1.5M images passed through the network, 1 h 07 min in these steps"
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").rglob("result.json"))[::7], ids=lambda path: path.parent.name
)
def test_real_results_go_into_a_card(path: Path) -> None:
    (result,) = find([path])
    assert f"{result.number('R@1'):.1f}" in figures((result,))
    assert f"of {result.content['data']['queries']:,} queries" in threat(result)
    assert command(result, "x", resolve_config({"data.name": result.dataset})).startswith(
        "holdfast evaluate runs/x --protocol "
    )
    assert (checks(result) == "") == (not result.content["checks"])
    assert result.verdict in card(replace(SOURCE, results=(result,)))
