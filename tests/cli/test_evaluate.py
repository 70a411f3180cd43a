"""The verbs that attack: evaluate, attack, report; on a tiny run over the bundled digits."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from holdfast.cli import display
from holdfast.evaluation.result import read
from holdfast.report import find, one_beside_published
from tests.conftest import Call, Refuse
from tests.helpers import tiny
from tests.helpers.result_files import write

FEW = ("--max-queries", "12", "--steps", "2", "--eps", "0.1")
TEN = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")


@pytest.fixture
def run(digits_run: Path) -> Path:
    """A run of a few steps, whose results go elsewhere."""
    return digits_run


def result_in(folder: Path) -> dict[str, object]:
    (file,) = folder.glob("**/result.json")
    content: dict[str, object] = json.loads(file.read_text())
    return content


def test_evaluate_prints_what_it_writes(call: Call, run: Path, tmp_path: Path) -> None:
    status, out, err = call("evaluate", run, "--quick", *FEW, "--out", tmp_path)
    assert (status, err) == (0, "")
    content = result_in(tmp_path)
    columns = content["columns"]
    assert isinstance(columns, dict)
    assert tuple(columns) == TEN
    for name, one in columns.items():
        assert re.search(rf"^ *{re.escape(name)} +{one['value']:.3f} +{one['low']:.3f} to ", out, re.MULTILINE)
    assert isinstance(content["ERS"], dict)
    assert re.search(rf"^ *ERS +{content['ERS']['value']:.3f} ", out, re.MULTILINE)
    assert content["protocol"] == "strict"
    assert isinstance(content["checks"], list)
    assert len(content["checks"]) >= 8
    for check in content["checks"]:
        assert check["name"] in out
    sample = content["sample R@1"]
    assert isinstance(sample, dict)
    assert f"without attack: {sample['value']:.1f}, {sample['kept']} of 12\n" in out
    benign = content["benign"]
    assert isinstance(benign, dict)
    last = f"R@1 {benign['R@1']:.1f} ({sample['value']:.1f} of the attacked); ERS {content['ERS']['value']:.1f}"
    assert re.fullmatch(rf"verdict: .+; {re.escape(last)}", out.splitlines()[-1])


def test_the_last_line_is_the_summary_whatever_is_asked_for(call: Call, run: Path, tmp_path: Path) -> None:
    _, out, _ = call("evaluate", run, "--protocol", "benign", "--out", tmp_path)
    assert re.fullmatch(r"verdict: unchecked; R@1 \d+\.\d", out.splitlines()[-1])
    few = ("--max-queries", "12", "--eps-curve", "0,0.3", "--no-checks", "--protocol", "worst")
    _, out, _ = call("evaluate", run, *few, "--out", tmp_path)
    assert re.fullmatch(
        r"verdict: .+; R@1 \S+ \(\S+ of the attacked\); robust R@1 \S+ \(\d+ of 12\)", out.splitlines()[-1]
    )


def test_certify_prints_the_bracket(call: Call, run: Path, tmp_path: Path) -> None:
    few = ("--protocol", "benign", "--max-queries", "4", "--out", tmp_path)
    status, out, err = call("evaluate", run, "--certify", "--sigma", "0.1", "--draws", "20", *few)
    assert (status, err) == (0, "")
    content = result_in(tmp_path)
    certified = content["certified"]
    assert isinstance(certified, dict)
    assert (certified["sigma"], certified["draws"], certified["queries"]) == (0.1, 20, 4)
    assert "the smoothed search: σ = 0.1, 20 noisy copies of each query" in out
    for one in certified["radii"]:
        cells = f"{one['value']:.3f} .* {one['kept']} of 4 +{one['attacked']['value']:.3f}"
        assert re.search(rf"^ *{one['radius']:g} +{255 * one['linf']:.2f}/255 +{cells}", out, re.MULTILINE)


def test_a_second_call_finds_the_result(call: Call, run: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", run, *FEW, "--attack", "es", "--no-checks", "--out", tmp_path)
    first, again = call(*arguments), call(*arguments)
    assert "attacking" in first[1]
    assert "attacking" not in again[1]
    assert first[1].splitlines()[-3:] == again[1].splitlines()[-3:]


def test_the_smallest_radii_are_printed(call: Call, run: Path, refused: Refuse, tmp_path: Path) -> None:
    few = ("--protocol", "worst", "--max-queries", "4", "--no-checks", "--eps", "51/255", "--minimal-eps")
    status, out, err = call("evaluate", run, *few, "--out", tmp_path)
    assert (status, err) == (0, "")
    minimal = result_in(tmp_path)["minimal eps"]
    assert isinstance(minimal, dict)
    assert re.search(r"broken +a quarter +half \(median\) +three quarters +> 51/255", out)
    assert f"{minimal['beyond']} of {minimal['queries']} queries" in out
    assert f"{255 * minimal['quartiles'][0]:.4g}/255" in out
    assert "--minimal-eps or --eps-curve" in refused("evaluate", run, "--minimal-eps", "--eps-curve", "1,2/255")


def test_a_curve_over_radii(call: Call, run: Path, tmp_path: Path) -> None:
    few = ("--max-queries", "12", "--steps", "2", "--no-checks", "--attack", "es", "--out", tmp_path)
    status, out, _ = call("evaluate", run, *few, "--eps-curve", "0,8,51/255")
    assert status == 0
    rows = re.findall(r"^ *(\d+)/255 +([\d.]+) +([\d.]+)", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "8", "51"]
    moved = [float(row[1]) for row in rows]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert len(list(tmp_path.glob("*/result.json"))) == 3


def test_robust_recall_never_rises_along_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display.curve(
        [
            read(write(tmp_path / f"{eps}.json", settings={"eps": eps / 255}, **{"robust R@1": {"value": value}}))
            for eps, value in ((1, 50.0), (2, 20.0), (4, 30.0), (8, 10.0))
        ]
    )
    out = capsys.readouterr().out
    assert [float(line.split()[-3]) for line in out.splitlines() if "/255" in line] == [50, 20, 20, 10]


def test_published_rows_are_put_beside(call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here beside another result, for of the digits nothing was published."""
    (other,) = find([write(tmp_path / "other.json")])
    monkeypatch.setattr("holdfast.report.published", lambda name: [name])
    monkeypatch.setattr("holdfast.report.one_beside_published", lambda result: one_beside_published(other))
    command = ("evaluate", run, *FEW, "--attack", "es", "--no-checks", "--published", "--out", tmp_path / "out")
    status, out, err = call(*command)
    assert (status, err) == (0, "")
    assert "N/A[R]" in out
    assert "ours - published" in out
    assert "published in: robrank repository" in out


@pytest.mark.usefixtures("short_attacks")
@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (("--protocol", "worst"), ["embedding", "benign metrics", "margin", "adam-1", "square", "checks"]),
        (("--attack", "es", "--eps", "16/255"), ["embedding", "benign metrics", "es", "checks"]),
        (("--attack", "es", "--eps-curve", "8,51/255"), ["embedding", "benign metrics", "es", "checks"]),
        (("--protocol", "benign"), ["embedding", "benign metrics"]),
    ],
)
def test_a_dry_run_only_says_what_it_takes(
    asked: tuple[str, ...], rows: list[str], call: Call, run: Path, tmp_path: Path
) -> None:
    few = () if "benign" in asked else ("--max-queries", "12")
    status, out, err = call("evaluate", run, *asked, *few, "--dry-run", "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    assert not (tmp_path / "out").exists()
    for row in rows:
        line = rf"^ *{row} +[\d,]+ +\d+ (s|min) +\d+ (s|min) +(\d+\.\d\d GB|\?) *$"
        assert len(re.findall(line, out, re.MULTILINE)) == (2 if "--eps-curve" in asked and row != "checks" else 1), row
    assert [f", ε = {radius}/255: what" in out for radius in (8, 51)] == ["--eps-curve" in asked] * 2
    assert re.fullmatch(r"about \d+ s, at most \d+ s; found out in \d+ s", out.splitlines()[-1])


MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
"""


def test_a_model_of_the_users_own_on_lists_of_images(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models.py").write_text(MODEL)
    tiny.photos(tmp_path / "photos")
    for name, numbers in {"q": (0, 1), "g": (1, 2, 3)}.items():
        lines = [f"photos/{c}/{i}.png,{c}" for c in "abcd" for i in numbers]
        Path(f"{name}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    lists = ("--queries", "q.csv", "--gallery", "g.csv", "--size", "8", "--channels", "1")
    status, out, err = call("evaluate", "models:build", *lists, "--no-checks", *FEW, "--eps", "4/255")
    assert (status, err) == (0, "")
    assert "holdfast normalised them" in out
    data = result_in(tmp_path / "evaluations")["data"]
    assert isinstance(data, dict)
    assert (data["queries"], data["gallery"]) == (8, 12)


def test_attack_writes_images_and_a_manifest(call: Call, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adv"
    status, out, _ = call("attack", run, "--attack", "qa+", "--out", folder, *FEW)
    assert status == 0
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len(entries) == 12
    saved = sum(entry["saved"]["QA+"] for entry in entries) / 12
    assert re.search(rf"QA\+ .* {saved:.3f} *$", out, re.MULTILINE)
    for entry in entries:
        with Image.open(folder / entry["file"]) as adversarial, Image.open(folder / entry["clean"]) as clean:
            assert adversarial.size == clean.size == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--eps", "eight"], "eps takes a finite number or a fraction such as 8/255, not 'eight'"),
        (["--norm", "l1"], "unknown value of norm 'l1'"),
        (["--norm", "l2"], "give eps"),
        (["--gradient", "nse"], "did you mean 'nes'?"),
        (["--precision", "half"], "unknown value of precision 'half' (allowed: float32, bfloat16)"),
        (["--protocol", "cvpr22", "--restarts", "2"], "neither restarts nor black-box"),
        (["--batch-size", "0"], "batch is at least 1"),
        (["--eps", "0.1", "--eps-curve", "0,1/255"], "not both"),
        (["--attack", "es", "--quick"], "give --attack or --quick, not both"),
        (["--protocol", "benign", "--eps-curve", "0,8/255"], "attacks nothing"),
        (["--root", "photos"], "data set 'digits' is bundled: leave out --root photos"),
        (["--data", "digits", "--root", "photos"], "data set 'digits' is bundled: leave out --root photos"),
        (["--published"], "nothing was published for data set 'digits'"),
        (["--eps-curve", "0,8,300/255"], "in units of the pixel range [0, 1], as 8/255"),
        (["--transfer", "nowhere"], "nowhere"),
        (["--certify", "--sigma", "0"], "sigma"),
        (["--sigma", "0.25"], "--sigma goes with --certify"),
        (["--draws", "100"], "--draws goes with --certify"),
        (["--certify", "--draws", "5"], "draws is at least 10"),
        (["--certify", "--eps-curve", "0,8/255"], "not both"),
    ],
)
def test_what_cannot_be_evaluated(arguments: list[str], told: str, refused: Refuse, run: Path) -> None:
    assert told in refused("evaluate", run, *arguments)
    assert told in refused("evaluate", run, *arguments, "--dry-run")
