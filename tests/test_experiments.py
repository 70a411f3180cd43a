"""The experiment files: every published row is in them, with the paper's settings, and reduced files say so."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.defense.recipes import LossConfig, parse_recipe
from holdfast.evaluation.result import read
from holdfast.report.published import printed
from holdfast.runs.config import decisive, differences, resolve_config
from holdfast.sweep.plan import START, Planned, plan
from holdfast.util.errors import HoldfastError

ROOT = Path(__file__).parents[1]
FILES = {file.stem: file for file in sorted((ROOT / "experiments").glob("*.yaml"))}
REDUCED = {"digits-table2", "cub-64px", "cars-64px", "cub-imagenet", "cars-imagenet"} | {
    f"fashion-{name}" for name in ("quarter", "whole", "tried", "claims", "levers", "radius", "resnet")
}
FULL = sorted(FILES.keys() - REDUCED)
CUB = [stem for stem in FULL if stem.startswith("cub-")]
WEIGHTS = "weights/resnet18.safetensors"
PAPER = "Zhou & Patel, CVPR 2022, "
TABLES = {
    f"{PAPER}Table 3": ["cub-table3"],
    f"{PAPER}Table 4": ["cub-table4"],
    f"{PAPER}Table 5": ["cub-table5"],
    f"{PAPER}Table 6": ["cub-table6", "cars-table6", "sop-table6"],
    f"{PAPER}Suppl. table, source x destination": ["cub-table2"],
    f"{PAPER}Suppl. table, u": ["cub-supplement"],
    f"{PAPER}Suppl. table, lambda on SOP": ["sop-table6"],
    f"{PAPER}Suppl. table, non-linear gradual adversary": ["cub-supplement"],
    f"{PAPER}Suppl. table, ICS margin": ["cub-supplement"],
    "robrank repository, doc/dmltab-fashion.txt (eps=77/255, alpha=3/255, 32 steps)": ["fashion"],
}
IMPOSSIBLE = {"HM[S,g_LGA]&L_ICS(...;gamma=0.2)": "the intra-class term has no margin"}
AXES = {"recipe", "seed", "pgd.steps", "loss.structure", "loss.ceiling"}
ETAS = (2, 4, 8, 16, 32)
LATER = {
    **{"validation.share": 0, "validation.on_test": False, "data.noise": 0.0, "loss.rho": 0.1, "model.trainable": []},
    **{"data.interpolation": "bilinear", "data.fit": "squash", "data.centring": "down"},
    **{"optim.head_lr": None, "optim.layer_decay": 1.0, "optim.warmup_ratio": 0.0},
}
"""What runs did before there were these settings."""


@dataclass(frozen=True)
class Row:
    """What a published row was trained with."""

    source: str
    dataset: str
    notation: str
    eta: int | None
    strength: LossConfig

    def trained_by(self, run: Planned) -> bool:
        config = run.config
        return (
            config.data.name == self.dataset
            and parse_recipe(config.recipe).notation == self.notation
            and self.eta in (None, config.pgd.steps)
            and config.loss == self.strength
        )


def published() -> Iterator[Row]:
    """The rows of the papers that can be trained."""
    for row in printed():
        if row["recipe"] not in IMPOSSIBLE:
            dataset = row["dataset"].lower()
            strength = resolve_config({"data.name": dataset}, row["training"]).loss
            yield Row(row["source"], dataset, row["recipe"], row["eta"], strength)


ROWS = sorted(set(published()), key=str)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Planned]]:
    """The runs of every file, where a file of ImageNet weights lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("place"))
        Path(WEIGHTS).parent.mkdir()
        Path(WEIGHTS).touch()
        return {stem: plan([file], Path("results")) for stem, file in FILES.items()}


def recipes(runs: list[Planned], eta: int | None = None) -> set[str]:
    return {run.config.recipe for run in runs if run.name != START and eta in (None, run.config.pgd.steps)}


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.source.removeprefix(PAPER)[:24]} {row.dataset} {row.notation} {row.eta}"
)
def test_every_published_row_is_trained_by_the_files_of_its_table(row: Row, planned: dict[str, list[Planned]]) -> None:
    assert any(row.trained_by(run) for stem in TABLES[row.source] for run in planned[stem])


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_is_called_impossible_was_published_and_is_no_recipe(name: str) -> None:
    assert name in {row["recipe"] for row in printed()}
    with pytest.raises(HoldfastError):
        parse_recipe(name)


def test_all_of_cub_is_the_union_of_its_files(planned: dict[str, list[Planned]]) -> None:
    apart = {run.name: run.config for stem in CUB for run in planned[stem]}
    assert {run.name: run.config for run in planned["cub"]} == apart
    assert len(planned["cub"]) == len(apart) < sum(len(planned[stem]) for stem in CUB)


def test_figure_and_matrices_are_whole(planned: dict[str, list[Planned]]) -> None:
    pairs = {f"hm-{source}-{destination}" for source in "rmsdh" for destination in "rmsdh"}
    assert recipes(planned["cub-table2"], 8) == pairs | {f"none-{source}" for source in "rmsdh"}
    assert recipes(planned["digits-table2"]) == pairs | {f"none-{source}" for source in "rmsdh"}
    for eta in ETAS:
        assert recipes(planned["cub-figure1"], eta) == {"act-r", "act-s", "hm-s-lga-ics"}


def test_fashion_has_the_same_recipes_at_any_length(planned: dict[str, list[Planned]]) -> None:
    whole = planned["fashion"]
    assert recipes(whole) == recipes(planned["fashion-quarter"]) == recipes(planned["fashion-quarter"], 8)
    assert recipes(whole, 8) | recipes(whole, 32) == recipes(whole)
    for name in ("act-r", "hm-s-lga-ics"):
        for eta in (8, 32):
            found = [run.config.seed for run in whole if (run.config.recipe, run.config.pgd.steps) == (name, eta)]
            assert found == [0, 1, 2]


@pytest.mark.parametrize("stem", FULL)
def test_full_files_have_the_papers_settings(stem: str, planned: dict[str, list[Planned]]) -> None:
    dataset = {"cub": "cub", "cars": "cars", "sop": "sop", "fashion": "fashion-mnist"}[stem.partition("-")[0]]
    weights = {} if stem == "fashion" else {"model.weights": WEIGHTS}
    defaults = resolve_config({"data.name": dataset, **weights})
    for run in planned[stem]:
        changed = {line.partition(":")[0] for line in differences(defaults, run.config)}
        assert changed <= AXES | {"validation.every", "validation.share"}
        assert not run.config.stop_on_collapse
        assert [one.protocol for one in run.evaluations] == ["cvpr22", "strict"]
        assert all(one.settings == {} for one in run.evaluations)


@pytest.mark.parametrize("stem", ["cub-64px", "cars-64px"])
def test_small_networks_share_their_start_and_their_steps(stem: str, planned: dict[str, list[Planned]]) -> None:
    start, *runs = planned[stem]
    assert start.name == START
    assert start.config.steps is None
    assert start.config.model.weights is None
    assert recipes(runs) == {
        *("none-s", "est-r", "act-r", "act-s", "hm-s-m", "hm-s-lga", "hm-s-lga-ics", "hm-r-lga-ics")
    }
    for run in runs:
        assert run.start == start
        assert run.config.warmup.epochs == 0
        changed = {line.partition(":")[0] for line in differences(runs[0].config, run.config)}
        assert changed <= {"recipe"}


@pytest.mark.parametrize("stem", FILES)
def test_reduced_files_say_so_in_their_first_line(stem: str) -> None:
    first, *rest = FILES[stem].read_text().splitlines()
    assert first.startswith("# ")
    limited = any(re.search(r"max_queries|^ *steps:", line) for line in rest)
    assert first.startswith("# Reduced: ") == limited == (stem in REDUCED)


@pytest.mark.parametrize("file", [*FILES.values(), ROOT / "experiments" / "README.md"], ids=lambda file: file.name)
def test_paths_are_relative(file: Path) -> None:
    assert not re.findall(r"(?<![\w.`/)])[/~]\w+", file.read_text())


def test_the_page_and_the_makefile_name_files_that_exist() -> None:
    page = (ROOT / "experiments" / "README.md").read_text()
    assert {name for name in re.findall(r"`([\w-]+)\.yaml`", page) if name != "NAME"} == FILES.keys()
    named = re.findall(r"experiments/([\w-]+)\.yaml", page + (ROOT / "Makefile").read_text())
    assert set(named) <= FILES.keys()


def test_the_page_counts_the_runs(planned: dict[str, list[Planned]]) -> None:
    rows = re.findall(r"^\| (`.+?) \|[^|]*\| (\d+)", (ROOT / "experiments" / "README.md").read_text(), re.MULTILINE)
    counted = {stem: int(count) for names, count in rows for stem in re.findall(r"`([\w-]+)\.yaml`", names)}
    assert counted == {stem: sum(run.name != START for run in runs) for stem, runs in planned.items()}


def test_the_results_in_the_repository_are_of_runs_in_the_files(planned: dict[str, list[Planned]]) -> None:
    for path in sorted((ROOT / "results").glob("*/*/evaluations/*/result.json")):
        stem, name = path.parts[-5], path.parts[-4]
        (run,) = (one for one in planned[stem] if one.name == name)
        given = {key: value for key, value in decisive(run.config).items() if key != "model.weights"}
        trained = LATER | read(path).training["settings"]
        assert {key: trained[key] for key in given} == given, path
