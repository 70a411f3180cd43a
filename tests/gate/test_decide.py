"""Rules and verdicts: what passes, what fails, what cannot be told, and what never passes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.result import SCORES, Result
from holdfast.gate.decide import Decision, Verdict, decide
from holdfast.gate.rules import PAIRED, MaxDrop, Min, Rule, parse_max_drops, parse_mins
from holdfast.gate.values import values_of
from holdfast.gate.written import badge, junit, summary
from holdfast.report import find
from holdfast.util.errors import HoldfastError
from tests.helpers.gated import evaluation, lines, record
from tests.helpers.result_files import write

RIGHT = [True] * 190 + [False] * 10
ROBUST = [i < 120 for i in range(200)]
HALVED = [i < 60 for i in range(200)]


def result(folder: Path, **changes: Any) -> Result:
    given = {"right": RIGHT, "robust": ROBUST, **changes}
    (found,) = find([evaluation(folder, given.pop("right"), given.pop("robust"), **given)])
    return found


def verdicts(decision: Decision) -> list[Verdict]:
    return [one.verdict for one in decision.judged]


def rules(*drops: str, least: tuple[str, ...] = ()) -> list[Rule]:
    return [*parse_max_drops(drops), *parse_mins(least)]


def test_rules_are_read_and_a_misspelt_score_names_the_nearest() -> None:
    assert rules("robust R@1=2", " R@1 = 1/2 ", least=("certified R@1@0.25=30",)) == [
        MaxDrop("robust R@1", 2.0),
        MaxDrop("R@1", 0.5),
        Min("certified R@1 at 0.25", 30.0),
    ]
    assert parse_max_drops(["certified R@1 at 0.5=1"]) == parse_max_drops(["certified R@1@.5=1"])
    for read, text, why in (
        (parse_max_drops, "robst R@1=2", "unknown score 'robst R@1'; did you mean 'robust R@1'?"),
        (parse_max_drops, "R@1", 'takes a score and a number, as --max-drop "robust R@1=2"'),
        (parse_max_drops, "R@1=two", "finite number"),
        (parse_max_drops, "R@1=-1", "a drop is allowed from 0 on"),
        (parse_max_drops, "RRS=1", "unknown score 'RRS'"),
        (parse_mins, "QA-=5", "of QA- less is better; --max-drop takes it"),
        (parse_mins, "certified R@1@far=5", "finite number"),
    ):
        with pytest.raises(HoldfastError) as error:
            read([text])
        assert why in str(error.value)


def test_the_same_passes_a_large_drop_fails_and_a_rise_passes(tmp_path: Path) -> None:
    old, same, worse = (
        result(tmp_path / name, robust=kept) for name, kept in (("a", ROBUST), ("b", ROBUST), ("c", HALVED))
    )
    both = rules("robust R@1=2", "R@1=1", "mAP=1", least=("robust R@1=40",))
    assert decide(same, old, both).verdict == Verdict.PASS
    found = decide(worse, old, both)
    assert verdicts(found) == [Verdict.FAIL, Verdict.PASS, Verdict.PASS, Verdict.FAIL]
    assert (found.judged[0].before, found.judged[0].after) == (60, 30)
    assert found.judged[0].low is not None
    assert found.judged[0].low < -30 < (found.judged[0].high or 0) < -20
    assert decide(old, worse, rules("robust R@1=0")).verdict == Verdict.PASS


def test_few_queries_cannot_tell(tmp_path: Path) -> None:
    old = result(tmp_path / "a", right=[True] * 40, robust=[True] * 40)
    new = result(tmp_path / "b", right=[True] * 40, robust=[True] * 38 + [False] * 2)
    (found,) = decide(new, old, rules("robust R@1=2")).judged
    assert (found.verdict, found.why) == (
        Verdict.CANNOT_TELL,
        "worse on 2 queries, better on 0: it may be chance",
    )
    (found,) = decide(old, old, rules("robust R@1=2")).judged
    assert found.verdict == Verdict.CANNOT_TELL
    assert "a drop of 5 is not ruled out: about" in found.why
    (found,) = decide(old, old, rules("robust R@1=2"), ruled_out=20).judged
    assert found.verdict == Verdict.PASS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collapsed": True}, "COLLAPSED"),
        ({"trusted": False}, "UNTRUSTED"),
        ({"trusted": None}, "unchecked"),
        ({"robust R@1": {"converged": False}}, "not converged"),
        ({"model": {"chosen_on": "fashion-mnist"}}, "CHOSEN ON TEST"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_doubtful_result_never_passes(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    old, doubtful = result(tmp_path / "a"), result(tmp_path / "b", **changes)
    worse = result(tmp_path / "c", robust=HALVED, **changes)
    rule = rules("robust R@1=2")
    (found,) = decide(doubtful, old, rule).judged
    assert (found.verdict, found.why) == (Verdict.CANNOT_TELL, f"the result is {said}")
    assert decide(worse, old, rule).verdict == Verdict.FAIL, "a doubt makes scores too high: the drop is there"
    (found,) = decide(result(tmp_path / "d", robust=HALVED), doubtful, rule).judged
    assert (found.verdict, found.why) == (Verdict.CANNOT_TELL, f"the baseline is {said}")
    assert decide(doubtful, None, rules(least=("robust R@1=10",))).verdict == Verdict.CANNOT_TELL
    unattacked = decide(doubtful, old, rules("R@1=1")).verdict
    assert unattacked == (Verdict.PASS if said == "unchecked" else Verdict.CANNOT_TELL)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"seed": 1}}, "settings.seed is 1 and 0"),
        ({"settings": {"max_queries": 200}}, "settings.max_queries is 200 and null"),
        ({"data": {"hash": "76543210"}}, "data.hash is 76543210 and 01234567"),
        ({"protocol_version": 9}, "protocol_version is 9 and 1"),
        ({"settings": {"gradient": "square"}}, "settings.gradient is square and not given"),
        ({"model": {"surrogate": "01234567"}}, "surrogate is 01234567 and null"),
        ({"benign": {"unreadable": 1}}, "unreadable is 1 and null"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_compare_is_not_compared(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    (found,) = decide(result(tmp_path / "b", **changes), result(tmp_path / "a"), rules("robust R@1=2")).judged
    assert found.verdict == Verdict.CANNOT_TELL
    assert "the results do not compare" in found.why
    assert said in found.why


def test_records_that_are_absent_or_others_are_said_to_be(tmp_path: Path) -> None:
    old, new = result(tmp_path / "a"), result(tmp_path / "b")
    (tmp_path / "b" / "benign.jsonl").unlink()
    soft = tmp_path / "b" / "records" / "worst.soft.jsonl"
    found = decide(new, old, rules("R@1=1", "robust R@1=2", "ERS=1", "CA+=1", "certified R@1@0.25=1"))
    assert [one.verdict for one in found.judged] == [Verdict.CANNOT_TELL, Verdict.PASS, *[Verdict.CANNOT_TELL] * 3]
    whys = [one.why for one in found.judged]
    assert "no benign.jsonl, the scores of each query" in whys[0]
    assert "has no ERS" in whys[2]
    kept = soft.read_text().splitlines(keepends=True)
    soft.write_text("".join(kept[:-1]))
    assert "has 189 records of 'worst.soft', not 190" in decide(new, old, rules("robust R@1=2")).judged[0].why
    soft.write_text("".join(kept).replace('"after": {"R@1": 100.0}', '"after": {"R@1": 0.0}'))
    assert (
        "says that robust R@1 is 60.000; by the records beside it it is 0.0"
        in decide(new, old, rules("robust R@1=2")).judged[0].why
    )
    lines(soft, [record(i, {"R@1": 100.0}, {"R@2": 100.0}) for i in range(190)])
    assert "the record of 0 has no R@1 after the attack" in decide(new, old, rules("robust R@1=2")).judged[0].why
    with pytest.raises(HoldfastError, match="needs --baseline"):
        decide(new, None, rules("R@1=1"))
    with pytest.raises(HoldfastError, match="there is no rule"):
        decide(new, old, [])


def ten(folder: Path, worse: float, target: int = 7) -> Result:
    """A result of ``strict`` with records of the nine attacks; ``worse``: by how much of their range."""
    readings = {"es": ("ES:D", "ES:R"), "ltm": ("LTM",), "gtm": ("GTM",), "gtt": ("GTT",), "tma": ("TMA",)}
    readings |= {name: (name.upper(),) for name in ("ca+", "ca-", "qa+", "qa-")}
    level = {"CA+": 30 - 30 * worse, "QA+": 30 - 30 * worse, "TMA": 0.5 + worse, "ES:D": 1 + 2 * worse}
    level |= dict.fromkeys(("CA-", "QA-"), 40 + 100 * worse)
    value = {name: level.get(name, 50.0) for name in SCORES}
    shares = ("ES:R", "LTM", "GTM", "GTT")
    for attack, names in readings.items():
        each = []
        for i in range(200):
            after = {name: 100.0 * (i < 100 - 200 * worse) if name in shares else value[name] for name in names}
            each.append(record(i, dict.fromkeys(names, 100.0), after, [target] if attack in ("ca+", "gtm") else []))
        lines(folder / "records" / f"{attack}.jsonl", each)
    value |= dict.fromkeys(shares, 50 - 100 * worse)
    points = [2 * value["CA+"], 100 - value["CA-"], 2 * value["QA+"], 100 - value["QA-"], 100 * (1 - value["TMA"])]
    points += [50 * (2 - value["ES:D"]), *(value[name] for name in shares)]
    columns = {name: {"value": value[name], "low": 0.0, "high": 100.0, "unit": "", "queries": 200} for name in SCORES}
    path = write(folder / "result.json", columns=columns, ERS={"value": sum(points) / 10})
    least = {"value": value["LTM"], "low": 0.0, "high": 100.0}
    content = {**json.loads(path.read_text()), "least R@1": least}
    path.write_text(json.dumps(content))
    (found,) = find([path])
    return found


def test_every_score_is_paired_in_its_own_direction(tmp_path: Path) -> None:
    old, new = ten(tmp_path / "a", 0.0), ten(tmp_path / "b", 0.1)
    names = [*SCORES, "ERS", "least R@1"]
    assert {*names} < {*PAIRED}
    found = decide(new, old, rules(*(f"{name}=0.01" for name in names)))
    assert verdicts(found) == [Verdict.FAIL] * len(names)
    for one in found.judged:
        assert one.drop is not None
        assert one.drop.seen > 0
        assert (one.before, one.after) == (
            pytest.approx(old.number(one.rule.score)),
            pytest.approx(new.number(one.rule.score)),
        )
    better = decide(old, new, rules(*(f"{name}=0.01" for name in names)))
    assert verdicts(better) == [Verdict.PASS] * len(names)


def test_targets_that_the_seed_draws_must_agree_and_those_of_the_model_need_not(tmp_path: Path) -> None:
    old, new = ten(tmp_path / "a", 0.0), ten(tmp_path / "b", 0.0, target=8)
    found = decide(new, old, rules("CA+=1", "GTM=1"))
    assert verdicts(found) == [Verdict.CANNOT_TELL, Verdict.PASS]
    assert "query 0 was attacked toward another image" in found.judged[0].why


def test_certified_queries_are_paired_by_their_radius(tmp_path: Path) -> None:
    found = []
    for name, radius in (("a", 0.3), ("b", 0.2)):
        each = [record(i, {"hits": 100.0}, {"radius": radius if i < 100 else 0.0}) for i in range(200)]
        lines(tmp_path / name / "records" / "certified.jsonl", each)
        share = {"low": 0.0, "high": 100.0, "linf": 0.01, "attacked": None}
        radii = [{"radius": 0.25, "value": 50.0 * (radius > 0.25), **share}, {"radius": 0.0, "value": 50.0, **share}]
        certified = {"sigma": 0.25, "draws": 100, "largest": 0.9, "abstained": 0, "radii": radii}
        found.append(result(tmp_path / name, certified=certified))
    old, new = found
    both = rules("certified R@1@0.25=2", "certified R@1@0=2", "certified R@1@0.5=2")
    decision = decide(new, old, both)
    assert verdicts(decision) == [Verdict.FAIL, Verdict.PASS, Verdict.CANNOT_TELL]
    assert "has no certified R@1 at 0.5" in decision.judged[2].why
    (level,) = decide(old, None, rules(least=("certified R@1@0.25=30",))).judged
    assert (level.after, level.low, level.verdict) == (50.0, 0.0, Verdict.CANNOT_TELL)
    assert level.why == "25 is not ruled out: attack more queries"
    assert values_of(old, "certified R@1 at 0.25")["certified R@1 at 0.25"].values.sum() == 100 * 100


def test_a_decision_is_written_for_others_to_read(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    old, new = result(tmp_path / "a"), result(tmp_path / "b", robust=HALVED)
    decision = decide(new, old, rules("R@1=1", "robust R@1=2", "ERS=1"))
    root = ElementTree.fromstring(junit(decision))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [case.get("name") for case in suite] == [str(one.rule) for one in decision.judged]
    assert [case[0].tag for case in suite] == ["system-out", "failure", "error"]
    assert "verdict: fail" in str(suite[1][0].get("message"))
    text = summary(decision)
    assert text.startswith("## holdfast gate: fail\n")
    assert re.search(
        r"\| robust R@1: drop of at most 2 \| 60\.0 \| 30\.0 \| -3[567]\.\d to -2[234]\.\d \| fail \|", text
    )
    assert badge(decision) == {"schemaVersion": 1, "label": "robust R@1", "message": "30.0, fail", "color": "red"}
    passed = decide(old, old, rules("R@1=1"))
    assert badge(passed) == {"schemaVersion": 1, "label": "R@1", "message": "95.0", "color": "brightgreen"}
