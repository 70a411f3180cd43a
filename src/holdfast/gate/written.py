"""A decision as others read it: JUnit XML, a summary in Markdown, a badge."""

from typing import Any
from xml.etree import ElementTree

from holdfast.evaluation.result import ROBUST
from holdfast.gate.decide import Decision, Judged, Verdict
from holdfast.gate.rules import MaxDrop
from holdfast.report.tables import Header, Rows, format_number, markdown
from holdfast.util.errors import printable

COLOURS = {Verdict.PASS: "brightgreen", Verdict.FAIL: "red", Verdict.CANNOT_TELL: "lightgrey"}
HEADER = ["rule", "before", "after", "95 % interval", "verdict", "why"]


def table(decision: Decision) -> tuple[Header, Rows]:
    """One row per rule; the interval is of the difference, or of the score where the rule has no baseline."""
    return HEADER, [_row(one) for one in decision.judged]


def summary(decision: Decision) -> str:
    """Markdown for the page of a build."""
    return f"## holdfast gate: {decision.verdict}\n\n{markdown(*table(decision))}\n"


def junit(decision: Decision) -> str:
    """JUnit XML: a test case per rule, a failure for a fail, an error for a rule that cannot be told."""
    counts = {one: sum(judged.verdict == one for judged in decision.judged) for one in Verdict}
    numbers = {
        "tests": f"{len(decision.judged)}",
        "failures": f"{counts[Verdict.FAIL]}",
        "errors": f"{counts[Verdict.CANNOT_TELL]}",
    }
    root = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "holdfast gate", **numbers})
    for one in decision.judged:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "holdfast.gate", "name": str(one.rule)})
        text = printable(
            "; ".join(f"{name}: {cell}" for name, cell in zip(HEADER[1:], _row(one)[1:], strict=True) if cell)
        )
        tags = {Verdict.FAIL: "failure", Verdict.CANNOT_TELL: "error"}
        if one.verdict in tags:
            ElementTree.SubElement(case, tags[one.verdict], {"message": text})
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def badge(decision: Decision) -> dict[str, Any]:
    """What shields.io's endpoint takes: robust R@1, or the score of the first rule, in the colour of the verdict."""
    one = next((one for one in decision.judged if one.rule.score == ROBUST), decision.judged[0])
    value = [] if one.after is None else [format_number(one.rule.score, one.after)]
    said = [] if decision.verdict == Verdict.PASS else [str(decision.verdict)]
    message = ", ".join([*value, *said]) or "pass"
    return {"schemaVersion": 1, "label": one.rule.score, "message": message, "color": COLOURS[decision.verdict]}


def _row(one: Judged) -> list[str]:
    name = one.rule.score
    before, after = ("" if value is None else format_number(name, value) for value in (one.before, one.after))
    interval = ""
    if one.low is not None and one.high is not None:
        sign = "+" if isinstance(one.rule, MaxDrop) else ""
        ends = [
            f"{float(format_number(name, end)) + 0.0:{sign}.{len(format_number(name, end).partition('.')[2])}f}"
            for end in (one.low, one.high)
        ]
        interval = " to ".join(ends)
    return [str(one.rule), before, after, interval, str(one.verdict), one.why]
