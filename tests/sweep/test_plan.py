"""Sweep files: which runs they stand for, what is refused before anything is written, and what counts as done."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from holdfast.cli import app
from holdfast.evaluation.settings import AttackSettings
from holdfast.runs.config import resolve_config
from holdfast.sweep.plan import Evaluation, plan
from holdfast.util.errors import HoldfastError
from tests.helpers.sweep_files import PLAIN, SMALL, evaluated, leave, planned, write

CHECKED = {"protocol": "strict", "max_queries": 4}
STRICT = {**CHECKED, "checks": False}


def names(folder: Path, *runs: Any, **sections: Any) -> list[str]:
    return [run.name for run in planned(folder, *runs, **sections)]


# ---- what a file stands for -----------------------------------------------------------------------------------------


def test_lists_are_axes_in_the_order_of_the_entry(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        {"recipe": ["none-s", "act-r"], "pgd.steps": [8, 2], "seed": [1, 0]},
        {"seed": [5], "recipe": "none-r", "optim.lr": 0.5},
    )
    assert [run.name for run in runs] == [
        *("none-s,pgd.steps=8,seed=1", "none-s,pgd.steps=8,seed=0", "none-s,pgd.steps=2,seed=1"),
        *("none-s,pgd.steps=2,seed=0", "act-r,pgd.steps=8,seed=1", "act-r,pgd.steps=8,seed=0"),
        *("act-r,pgd.steps=2,seed=1", "act-r,pgd.steps=2,seed=0", "none-r,seed=5,optim.lr=0.5"),
    ]
    assert {run.folder for run in runs} == {tmp_path / "out" / "tiny" / run.name for run in runs}
    assert {run.sweep for run in runs} == {"tiny"}
    assert runs[4].config == resolve_config(SMALL, {"recipe": "act-r", "pgd.steps": 8, "seed": 1})
    assert runs[8].config == resolve_config(SMALL, {"recipe": "none-r", "seed": 5, "optim.lr": 0.5})


def test_names_are_short_and_of_one_folder(tmp_path: Path) -> None:
    runs = planned(
        tmp_path, {"recipe": "HM[S,g_LGA]&ICS", "pgd.step": ["12/255", 0.05], "seed": 0}, {"recipe": "hm-r--0.15"}
    )
    assert [run.name for run in runs] == [
        *("hm-s-lga-ics,pgd.step=12of255,seed=0", "hm-s-lga-ics,pgd.step=0.05,seed=0", "hm-r--0.15")
    ]
    assert runs[0].config.pgd.step == 12 / 255


def test_a_recipe_for_all_is_in_the_names_too(tmp_path: Path) -> None:
    assert names(tmp_path, {"seed": [0, 1]}, settings={**SMALL, "recipe": "act-s"}) == ["act-s,seed=0", "act-s,seed=1"]
    assert names(tmp_path, {"seed": 0}) == ["hm-s-lga-ics,seed=0"]


def test_nested_and_dotted_settings_are_the_same(tmp_path: Path) -> None:
    nested = {
        "data": {"name": "digits"},
        "model": {"dim": 8},
        "batch": {"pairs": 8},
        "optim": {"epochs": 1},
        "validation": {"every": 0},
        "steps": 2,
    }
    runs = planned(tmp_path, {"recipe": "act-r", "pgd": {"steps": [1, 3], "eps": "8/255"}}, settings=nested)
    assert runs == planned(tmp_path, {"recipe": "act-r", "pgd.steps": [1, 3], "pgd.eps": "8/255"}, settings=nested)
    assert [run.name for run in runs] == [f"act-r,pgd.steps={n},pgd.eps=8of255" for n in (1, 3)]
    assert [run.config for run in runs] == [
        resolve_config(SMALL, {"recipe": "act-r", "pgd.steps": steps, "pgd.eps": 8 / 255}) for steps in (1, 3)
    ]


@pytest.mark.parametrize(
    ("key", "values", "written"),
    [
        ("data.augment", [False, True], ["false", "true"]),
        ("stop_on_collapse", [True, False], ["true", "false"]),
        ("steps", [None, 1], ["null", "1"]),
        ("optim.ema", [None, 0, 0.5], ["null", "0", "0.5"]),
        ("validation.every", [0, 1], ["0", "1"]),
        ("seed", [0, 1], ["0", "1"]),
    ],
)
def test_values_come_through_as_they_are(key: str, values: list[Any], written: list[str], tmp_path: Path) -> None:
    """0 is not false, and null is not left out."""
    runs = planned(tmp_path, {**PLAIN, key: values})
    assert [run.name for run in runs] == [f"none-r,{key}={text}" for text in written]
    section, _, field = key.rpartition(".")
    found = [getattr(getattr(run.config, section) if section else run.config, field) for run in runs]
    assert found == values
    assert [value is None or isinstance(value, bool) for value in found] == [
        value is None or isinstance(value, bool) for value in values
    ]
    alone = [planned(tmp_path, settings={**SMALL, key: value})[0].config for value in values]
    assert alone == [run.config for run in runs]


@pytest.mark.parametrize("text", ["data/cub", "~/cub", "data/cub #2", "cub: new", "007"])
def test_text_comes_through_as_it_is(text: str, tmp_path: Path) -> None:
    assert planned(tmp_path, settings={**SMALL, "data.root": text})[0].config.data.root == text


def test_a_run_in_two_entries_or_notations_is_one_run(tmp_path: Path) -> None:
    entries = [{"recipe": ["none-r", "ACT[R]"], "seed": [0, 1]}, {"recipe": ["act-r", "act-s"], "seed": 0}]
    assert names(tmp_path, *entries) == [
        *("none-r,seed=0", "none-r,seed=1", "act-r,seed=0", "act-r,seed=1", "act-s,seed=0")
    ]


def test_settings_of_all_runs_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    """In the names too, and also at the start, whose weights the others begin with all the same."""
    (tmp_path / "a.pth").touch()
    given = {"seed": 7, "optim.lr": 0.5, "pgd.steps": 2, "model.weights": str(tmp_path / "a.pth")}
    file = write(tmp_path, {**PLAIN, "seed": [0, 1], "pgd.steps": 1}, start={"recipe": "none-s", "optim.lr": 0.1})
    start, *runs = plan([file], tmp_path, given=given)
    assert [run.name for run in runs] == ["none-r,seed=7,pgd.steps=2"]
    assert [(run.config.seed, run.config.optim.lr) for run in (start, *runs)] == [(7, 0.5)] * 2
    assert start.config.model.weights == given["model.weights"]
    assert runs[0].config.model.weights == str(start.folder / "model.safetensors")


def test_every_run_is_evaluated_in_every_way(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"protocol": "cvpr22", "max_queries": 4, "checks": False},
        {"eps": "8/255", "step": 0.5, "attacks": "es"},
    ]
    runs = planned(tmp_path, {"recipe": ["none-r", "act-r"]}, evaluations=given)
    for run in runs:
        assert run.evaluations == (
            Evaluation("cvpr22", max_queries=4, checks=False),
            Evaluation("strict", eps=8 / 255, step=0.5, attacks=["es"]),
        )
    assert runs[0].evaluations[0].options() == ["--protocol", "cvpr22", "--max-queries", "4", "--no-checks"]
    assert planned(tmp_path)[0].evaluations == ()


def test_every_setting_of_an_evaluation_is_an_option() -> None:
    command = typer.main.get_command(app).commands["evaluate"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    settings = {
        field.name: 1
        for field in fields(AttackSettings)
        if field.name not in ("protocol", "attacks", "objects", "cascade", "alpha")
    }
    words = Evaluation("strict", checks=False, **settings, attacks=["es", "qa+:5"]).options()  # type: ignore[arg-type]
    assert {word for word in words if word.startswith("--")} <= known
    assert words[-7:] == ["--attack", "es", "--attack", "qa+:5", "--certify", "--minimal-eps", "--no-checks"]
    assert Evaluation("worst", minimal_eps=False).options() == ["--protocol", "worst"]


# ---- the start ------------------------------------------------------------------------------------------------------


def test_all_others_begin_with_the_weights_of_the_start(tmp_path: Path) -> None:
    start, *others = planned(
        tmp_path, {"recipe": ["none-r", "act-r"]}, start={"recipe": "none-s", "steps": 5}, evaluations=[STRICT]
    )
    assert (start.name, start.config) == ("start", resolve_config(SMALL, {"recipe": "none-s", "steps": 5}))
    assert start.start is None
    assert start.evaluations == ()
    weights = str(tmp_path / "out" / "tiny" / "start" / "model.safetensors")
    for run, recipe in zip(others, ("none-r", "act-r"), strict=True):
        assert run.start == start
        assert run.config == resolve_config(SMALL, {"recipe": recipe, "model.weights": weights})
        assert run.name == recipe


# ---- a part of the file ---------------------------------------------------------------------------------------------


def test_only_some_runs_with_the_start_they_need(tmp_path: Path) -> None:
    begun = write(tmp_path, {"recipe": ["none-r", "act-r"]}, start={"recipe": "none-s"})
    other = write(tmp_path, {"recipe": ["est-r", "none-r"]}, name="other.yaml", start={"recipe": "none-s"})
    chosen = [run.folder for run in plan([begun, other], tmp_path, ["act-r"])]
    assert chosen == [tmp_path / "tiny" / "start", tmp_path / "tiny" / "act-r"]
    assert [run.name for run in plan([other], tmp_path, ["none-r", "est-r"])] == ["start", "est-r", "none-r"]


# ---- what is refused ------------------------------------------------------------------------------------------------

IN_EVALUATION = r"tiny\.yaml: evaluations\.0\."
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "section": ({"evaluation": [STRICT]}, r"tiny\.yaml: unknown setting 'evaluation'; did you mean 'evaluations'\?"),
    "key for all": ({"settings": {"pgd.step_s": 3}}, r"tiny, none-r: unknown setting 'pgd.step_s'; did you mean"),
    "key of a run": ({"runs": [{"sed": [0, 1]}]}, r"tiny, hm-s-lga-ics,sed=0: unknown setting 'sed'; .* 'seed'\?"),
    "value for all": ({"settings": {"optim.lr": "fast"}}, r"tiny, none-r: optim.lr takes .* not 'fast'"),
    "value of a run": (
        {"runs": [{"seed": [0, -1]}]},
        r"tiny, hm-s-lga-ics,seed=-1: seed is at least 0, not -1",
    ),
    "data set": ({"settings": {"data.name": "digit"}}, r"tiny, none-r: unknown data set 'digit'; did you mean"),
    "recipe of a run": ({"runs": [{"recipe": ["act-r", "act-x"]}]}, r"tiny\.yaml: unknown sampler 'x'"),
    "protocol": (
        {"evaluations": [{"protocol": "strct"}]},
        r"unknown value of evaluations\.0\.protocol 'strct'; .* 'strict'\?",
    ),
    "setting": (
        {"evaluations": [{"max_querys": 3}]},
        r"unknown setting 'evaluations\.0\.max_querys'; .* 'evaluations\.0\.max_queries'",
    ),
    "attack": ({"evaluations": [{"attacks": ["es", "qa"]}]}, r"tiny, none-r: unknown attack 'qa'; did you mean 'qa"),
    "no attacks": (
        {"evaluations": [{"attacks": []}]},
        IN_EVALUATION + r"attacks takes a list with something in it or null, not \[\]",
    ),
    "restarts": ({"evaluations": [{"protocol": "cvpr22", "restarts": 1}]}, r"tiny, none-r: protocol 'cvpr22' has"),
    "empty runs": ({"runs": []}, r"tiny\.yaml: runs takes a list with something in it, not \[\]"),
    "empty axis": ({"runs": [{"recipe": "act-r", "seed": []}]}, r"tiny.*seed"),
    "start": ({"start": "none-s"}, r"tiny\.yaml: start takes a mapping or null, not 'none-s'"),
    "weights": ({"settings": {"model.weights": "a.pth"}}, r"tiny, none-r: there is no file of weights a\.pth"),
    "weights of a run beside a start": (
        {"start": PLAIN, "runs": [{"recipe": "act-r", "model.weights": "a.pth"}]},
        r"tiny, act-r,model.weights=a.pth: there is no file of weights a\.pth",
    ),
    "one name": (
        {"runs": [{"data.root": ["a/b", "aofb"]}]},
        r"tiny\.yaml: two runs .* named hm-s-lga-ics,data.root=aofb",
    ),
}


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(
    sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if isinstance(sections.get("settings"), dict):
        sections = {**sections, "settings": {**SMALL, **sections["settings"]}}
    with pytest.raises(HoldfastError, match=message) as caught:
        plan([write(tmp_path, **sections)], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("runs: [", r"tiny\.yaml is not YAML"), ("- recipe: act-r", r"tiny\.yaml: it holds .* a mapping")],
)
def test_what_is_no_sweep_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(HoldfastError, match=message):
        plan([tmp_path / "tiny.yaml"], tmp_path)
    with pytest.raises(HoldfastError, match=r"cannot read .*absent\.yaml"):
        plan([tmp_path / "absent.yaml"], tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(HoldfastError, match="two sweep files are named 'tiny'"):
        plan([write(tmp_path), write(tmp_path / "other", name="tiny.yml")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_settings_in_the_folder_is_refused(tmp_path: Path) -> None:
    (run,) = planned(tmp_path)
    leave(run, step=1)
    assert names(tmp_path, settings={**SMALL, "save_minutes": 0}) == ["none-r"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HoldfastError, match=r"tiny/none-r was begun with other settings.*optim\.lr: 0\.001 -> 0\.5"):
        planned(tmp_path, settings={**SMALL, "optim.lr": 0.5})
    assert sorted(tmp_path.rglob("*")) == before


# ---- what is done ---------------------------------------------------------------------------------------------------


def test_a_run_is_trained_when_it_has_come_to_its_end(tmp_path: Path) -> None:
    some, whole = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, evaluations=[STRICT])
    assert not some.trained()
    leave(some, step=1)
    leave(whole)
    assert [run.trained() for run in (some, whole)] == [False, True]
    evaluated(some, some.evaluations[0])
    assert some.missing() == list(some.evaluations), "a result of weights that are yet to change"
    assert whole.missing() == list(whole.evaluations)
    assert whole.missing()
    evaluated(whole, whole.evaluations[0])
    assert not whole.missing()


@pytest.mark.parametrize(
    ("evaluation", "changes", "counts"),
    [
        (STRICT, {}, True),
        (STRICT, {"checks": [{"name": "a check"}]}, True),
        (STRICT, {"settings": {"max_queries": 5}}, False),
        (STRICT, {"settings": {"eps": 8 / 255}}, False),
        (STRICT, {"settings": {"attacks": ["es"]}}, False),
        (STRICT, {"settings": {"seed": 1}}, False),
        (STRICT, {"model": {"weights": "best"}}, False),
        (STRICT, {"model": {"surrogate": "1a2b3c4d"}}, False),
        (STRICT, {"protocol_version": 0}, False),
        (CHECKED, {}, False),
        (CHECKED, {"checks": [{"name": "a check"}]}, True),
        ({"protocol": "benign"}, {}, True),
    ],
)
def test_only_a_result_of_these_weights_and_settings_counts(
    evaluation: dict[str, Any], changes: dict[str, Any], counts: bool, tmp_path: Path
) -> None:
    """With checks where they are wanted and something is attacked."""
    (run,) = planned(tmp_path, evaluations=[evaluation])
    leave(run)
    evaluated(run, run.evaluations[0], **changes)
    assert bool(run.missing()) is not counts


@pytest.mark.parametrize("other", [{"steps": 1}, {"seconds": 9.5}, None])
def test_a_result_of_another_training_does_not_count(other: dict[str, float] | None, tmp_path: Path) -> None:
    """Such as one that came with a checkout, of a training elsewhere."""
    (run,) = planned(tmp_path, evaluations=[STRICT])
    leave(run)
    evaluated(run, run.evaluations[0])
    assert not run.missing()
    evaluated(run, run.evaluations[0], model={"training": other and {**run.run.cost(), **other}})
    assert run.missing() == list(run.evaluations)


def test_a_collapsed_model_that_could_not_be_attacked_is_done(tmp_path: Path) -> None:
    (run,) = planned(tmp_path, evaluations=[{"max_queries": 4}])
    leave(run)
    evaluated(run, run.evaluations[0], settings={"attacks": []}, collapsed=True)
    assert not run.missing()
    evaluated(run, run.evaluations[0], settings={"attacks": []})
    assert run.missing()


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (run,) = planned(tmp_path, evaluations=[STRICT])
    leave(run)
    evaluated(run, run.evaluations[0]).write_text("{")
    with pytest.raises(HoldfastError, match=r"result\.json is not JSON"):
        run.missing()


# ---- how long it is -------------------------------------------------------------------------------------------------


def test_steps_from_begin_to_end(tmp_path: Path) -> None:
    """1,000 digits make 125 batches of 8 pairs."""
    epochs = {**SMALL, "steps": None, "optim.epochs": 3, "warmup.epochs": 2}
    (run,) = planned(tmp_path, settings=epochs)
    assert run.steps() == 5 * 125
    assert replace(run, config=replace(run.config, steps=200)).steps() == 200
    assert replace(run, config=replace(run.config, steps=2000)).steps() == 5 * 125


def test_words_are_those_of_a_training_by_hand(tmp_path: Path) -> None:
    (run,) = planned(tmp_path, {"recipe": "none-r", "optim.ema": None, "pgd.step": "3/255"})
    words = run.words()
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert [re.sub(r"=.*", "", change) for change in changes] == [*SMALL, "recipe", "optim.ema", "pgd.step"]
    assert resolve_config(assignments=changes) == run.config
    assert words[0] == "train"
    assert words[-3:] == ["--out", str(run.folder), "--resume"]
