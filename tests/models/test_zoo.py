"""The zoo: entries by name wherever a run or model is named; the committed ones hold what they promise."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from holdfast.evaluation.evaluate import evaluate
from holdfast.export import export
from holdfast.export.card import card
from holdfast.export.source import open_run
from holdfast.models import zoo
from holdfast.models.embedder import Embedder
from holdfast.models.open import open_model
from holdfast.report import find
from holdfast.report.tables import setting_of
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.tiny import QUICK, digits, snapshot

COMMITTED = Path(__file__).parents[2] / "zoo"
SPOKEN = ("--quick", "--steps", "2", "--max-queries", "8", "--no-checks", "--device", "cpu")


@pytest.fixture(scope="module")
def made(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of two entries on digits, one of them evaluated."""
    home = tmp_path_factory.mktemp("made")
    run = shutil.copytree(digits_run, home / "run")
    export(run, "hub", home / "zoo" / "digits-raw", precision="bfloat16")
    evaluate(run, **QUICK)
    export(run, "hub", home / "zoo" / "digits-hm", precision="bfloat16")
    return home / "zoo"


@pytest.fixture(autouse=True)
def elsewhere(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with that zoo; nothing in it changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(zoo.VARIABLE, str(made))


def test_entries_are_found_by_name(made: Path) -> None:
    assert zoo.names() == ["digits-hm", "digits-raw"]
    assert zoo.located("zoo:digits-raw") == zoo.located(Path("zoo:digits-raw")) == made / "digits-raw"
    assert zoo.located("runs/x") == Path("runs/x")
    with pytest.raises(HoldfastError, match=r"unknown zoo entry 'digits-row'; did you mean 'digits-raw'\?"):
        zoo.located("zoo:digits-row")


def test_where_the_zoo_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(HoldfastError, match=r"there is no zoo at .*absent; set HOLDFAST_ZOO"):
        zoo.names()
    monkeypatch.delenv(zoo.VARIABLE)
    assert zoo.home() == COMMITTED
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "site-packages" / "holdfast" / "zoo.py"))
    with pytest.raises(HoldfastError, match="there is no zoo at zoo; set"):
        zoo.home()
    (tmp_path / "zoo").mkdir()
    assert zoo.home() == Path("zoo")
    with pytest.raises(HoldfastError, match="no zoo entry 'x': zoo holds none"):
        zoo.find("x")


def test_an_entry_stands_for_a_model_everywhere(made: Path) -> None:
    images = digits().read(torch.arange(4))[0]
    wanted = Embedder.from_pretrained(made / "digits-raw")(images)
    for embed in (
        Embedder.from_pretrained("zoo:digits-raw"),
        open_model("zoo:digits-raw").embed,
        open_run("zoo:digits-raw").embedder,
    ):
        assert (embed(images) == wanted).all()


@pytest.mark.usefixtures("short_attacks")
def test_an_evaluation_of_an_entry_does_not_touch_the_zoo(made: Path, tmp_path: Path, call: Call) -> None:
    before = snapshot(made)
    status, out, _ = call("evaluate", "zoo:digits-raw", *SPOKEN)
    assert status == 0
    (result,) = find([tmp_path / "evaluations" / "digits-raw"])
    assert result.name == "digits-raw"
    assert "written to evaluations/digits-raw/strict-" in out
    assert result.training == {"settings": result.training["settings"], **open_run("zoo:digits-raw").cost}
    model = ("zoo:digits-raw", "--data", "digits", "--transfer", "zoo:digits-hm")
    assert call("evaluate", *model, *SPOKEN)[0] == 0
    assert call("attack", "zoo:digits-raw", "--max-queries", "2", "--steps", "1", "--out", tmp_path / "adv")[0] == 0
    assert call("export", "zoo:digits-raw", "--format", "torch")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adv", "evaluations", "exports"]
    assert snapshot(made) == before


def test_the_zoo_is_listed(made: Path, call: Call) -> None:
    status, out, _ = call("list", "zoo")
    assert status == 0
    (result,) = find([made / "digits-hm"])
    lines = {name: next(line for line in out.splitlines() if f"zoo:{name} " in line) for name in zoo.names()}
    assert f"{result.number('R@1'):.1f}" in lines["digits-hm"]
    assert f"{result.number('ERS'):.1f}" in lines["digits-hm"]
    assert setting_of(result).radius in lines["digits-hm"]
    assert "unchecked" in lines["digits-hm"]
    assert "not evaluated" in lines["digits-raw"]
    size = (made / "digits-raw" / "model.safetensors").stat().st_size / 1e6
    assert all("hm-s-lga" in line and f"{size:.1f} MB" in line for line in lines.values())


def test_what_is_wrong_with_a_name_is_said(refused: Refuse) -> None:
    assert "did you mean 'digits-raw'?" in refused("evaluate", "zoo:digits-rae")
    assert "unknown zoo entry ''" in refused("evaluate", "zoo:")


# --- what is committed


def entries() -> list[Path]:
    return sorted(path.parent for path in COMMITTED.glob("*/config.json"))


def faults(entry: Path) -> list[str]:
    """What is wrong with an entry: it does not load, or its card does not say what its results say."""
    source, found = open_run(entry), []
    images = source.embedder.config.channels, source.embedder.config.size
    if source.config.data.name not in ("digits", "mnist", "fashion-mnist"):
        found.append(f"trained on {source.config.data.name}, whose images are not free")
    if Path(source.config.data.root or "data").is_absolute():
        found.append("tells where the data lay")
    if not source.results:
        found.append("has no results")
    if images[1] > 64:
        found.append("is large")
    text = (entry / "README.md").read_text()
    if text != card(source, "bfloat16"):
        found.append("its card is not what its results make")
    if re.search(r"(^|[\s\"'=])/(home|root|work|tmp|Users)/", text + json.dumps([r.content for r in source.results])):
        found.append("names a path of a machine")
    return found


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_committed_entries_hold_what_they_promise(entry: Path) -> None:
    assert faults(entry) == []


def test_the_committed_zoo_is_small_and_told_of() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file()) <= 40e6
    told = (COMMITTED / "README.md").read_text()
    assert all(entry.name in told for entry in entries())


def test_faults_are_found(made: Path, tmp_path: Path) -> None:
    assert faults(made / "digits-hm") == []
    assert "has no results" in faults(made / "digits-raw")
    entry = tmp_path / "entry"
    for name, content in snapshot(made / "digits-hm").items():
        (entry / name).parent.mkdir(parents=True, exist_ok=True)
        (entry / name).write_bytes(content)
    card = entry / "README.md"
    card.write_text(re.sub(r"(type: ERS\n\s+value: )", r"\g<1>1", card.read_text()))
    assert faults(entry) == ["its card is not what its results make"]
    config = entry / "config.yaml"
    config.write_text(config.read_text().replace("name: digits", "name: cub").replace("root: null", "root: /home/me"))
    assert faults(entry)[:2] == ["trained on cub, whose images are not free", "tells where the data lay"]
