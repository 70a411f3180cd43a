"""What the command line prints: tables and results, as text that also reads well in a file."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from math import isnan
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from holdfast.evaluation.result import INDEX, LEAST, ROBUST, RRS, SAMPLE
from holdfast.evaluation.words import PASSED, verdict_words
from holdfast.report.tables import Header, Rows, format_counts, format_radius, format_value, setting_of
from holdfast.report.widths import NARROWEST, fit
from holdfast.util.errors import printable
from holdfast.util.progress import format_duration
from holdfast.util.text import console, counted, plain

if TYPE_CHECKING:
    from typing import Any

    from holdfast.evaluation.estimate.estimate import Estimate
    from holdfast.evaluation.result import Result
    from holdfast.evaluation.robust.compare import Comparison
    from holdfast.export.verify import Compared
    from holdfast.search.feedback.attack import SearchAttack
    from holdfast.search.lookup import Answer
    from holdfast.sweep.plan import Planned

WIDTH_OF_A_FILE = 200
MADE = (LEAST, "ERS", RRS)
"""What is made of the scores of several attacks."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, narrow: bool = False) -> None:
    """Print a table. narrow: columns that have no room are left out, and named below, as :func:`fit` has it."""
    screen, left_out = console(), list[str]()
    screen.width = (room() if narrow or screen.is_terminal else None) or max(screen.width, WIDTH_OF_A_FILE)
    if narrow:
        columns, rows, left_out = fit([*columns], [[*row] for row in rows], screen.width)
    grid = Table(show_header=any(columns), box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=narrow and column not in NARROWEST and column != columns[0])
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    screen.print(plain(title), style="italic", highlight=False, markup=False)
    screen.print(grid)
    if left_out:
        print(f"left out, for want of room: {', '.join(left_out)}")


def room() -> int | None:
    """How many characters a line of the terminal holds; None for a file or a pipe."""
    screen = console()
    return screen.width if screen.is_terminal else None


def listed(title: str, markdown: str, found: tuple[Header, Rows]) -> None:
    """Print results in Markdown, or where its lines are longer than those of the terminal, as a table that fits."""
    width = room()
    if width is None or all(cell_len(line) <= width for line in markdown.splitlines()):
        print(markdown)
    else:
        table(title, *found, narrow=True)


def result(found: "Result") -> None:
    """Print an evaluation: benign metrics, scores with their intervals, checks, and the verdict."""
    content = found.content
    settings, data = content["settings"], content["data"]
    benign = {**content["benign"], **content["gauges"]}
    rows = [[name, f"{one:.3f}" if isinstance(one, float) else str(one)] for name, one in benign.items()]
    every = counted(content["benign"]["queries"], "query")
    table(f"{found.name} on {data['name']}: images as they are, {every}", ["", ""], rows)
    if found.sampled:
        print(f"R@1 of the queries that were attacked, without attack: {sample(found)}")
    if content["columns"]:
        means = {name: content[name] for name in MADE if content.get(name)}
        rows = []
        for name, one in {**content["columns"], **means}.items():
            counts = [str(one.get(key, "")) for key in ("kept", "queries")]
            rows.append([name, _value(one), _interval(one), one.get("unit", ""), *counts, _further(found, name)])
        columns = ["", "value", "95 % interval", "what it is", "kept", "of images", "4 × the steps"]
        table(f"attacked: {setting_of(found).attack}", columns, rows)
        if content["further"]:
            print("4 × the steps: how much worse a score gets, in points of 100, by attacks of four times the steps;")
            print("arrived: by at most 1")
    if robust := content[ROBUST]:
        robust_recall(robust, format_radius(settings["eps"], settings["norm"]), found.black_box)
    if found.minimal_eps:
        smallest_radii(found.minimal_eps, settings)
    if found.certified:
        certificate(found.certified)
    if content["checks"]:
        rows = [[PASSED[one["passed"]], one["name"], one["detail"]] for one in content["checks"]]
        table("can these scores be trusted?", ["", "check", "what was seen"], rows)
    if found.black_box and found.asked:
        print(f"model queries: {content['cost']['asked']:,}, which is {found.asked:,.0f} per attacked image")
    for remark in content["model"].get("remarks", []):
        print(f"note: {remark}")
    for words in verdict_words(found.verdict):
        print(f"note: {words}")
    if found.path is not None:
        print(f"written to {found.path}")


def summary(found: "Result") -> None:
    """Print what to read first, in one line."""
    attacked = f"{format_value(found, SAMPLE)} of the attacked" if SAMPLE in found.extras else ""
    figures = {"R@1": attacked, ROBUST: format_counts(found.counts(ROBUST)).removeprefix(", "), "ERS": ""}
    said = [f"verdict: {found.verdict}"]
    for name, counts in figures.items():
        if found.number(name) is not None:
            said.append(f"{name} {format_value(found, name)}{counts and f' ({counts})'}")
    print("; ".join(said))


def sample(found: "Result") -> str:
    """R@1 of the attacked queries, without attack."""
    return format_value(found, SAMPLE) + format_counts(found.counts(SAMPLE))


def through_index(plain: "Result", indexed: "Result") -> None:
    """Print what an index costs and gains: the scores with and without it, and how often it misses the nearest item."""
    about = indexed.content[INDEX]
    names = [name for name in ("R@1", SAMPLE, ROBUST, "ERS") if indexed.number(name) is not None]
    rows = [[one, *(format_value(result, name) for name in names)] for one, result in (("", plain), ("", indexed))]
    rows[0][0], rows[1][0] = "every vector compared", about["word"]
    table("with and without the index", ["", *names], rows)
    print(f"bytes per item: {about['bytes per item']:,}, of a vector {about['bytes per vector']:,}")
    for when, one in about["missed"].items():
        if one is not None:
            kept = f"{one['kept']} of {counted(one['queries'], 'query')}"
            print(f"the nearest item is missed, {when}: {one['value']:.1f} % ({kept}; 95 %: {_interval(one)})")


def searched(found: "SearchAttack", out: Path) -> None:
    """Print what share of images an attack on a search reached with so many searches."""
    content, rows = found.content, []
    for name, points in content["curve"].items():
        for point in points:
            kept = f"{point['kept']} of {point['queries']}"
            rows.append([name, f"{point['searches']:,}", f"{point['value']:.1f} %", kept, _interval(point)])
    attacked, reach = counted(len(found.entries), "image"), content["settings"]["eps"]
    radius = format_radius(reach, content["settings"]["norm"])
    title = f"{content['attack']} on {content['search']}: {attacked}, ε = {radius}, k = {content['k']}"
    table(title, ["", "searches per image", "images", "", "95 % interval"], rows)
    print(f"searches: {content['searches']:,}, each logged in {out}; images and their manifest lie there too")


def robust_recall(robust: "dict[str, Any]", reach: str, black_box: bool) -> None:
    """Print robust R@1 and what each stage of the cascade did to it."""
    left, rows = robust["queries"] - robust["stages"][0]["tried"] if robust["stages"] else 0, []
    cost, unit = ("asked", "model queries each") if black_box else ("passes", "passes per query")
    for stage in robust["stages"]:
        if stage["tried"]:
            each = f"{stage[cost] / stage['tried']:.0f}"
            rows.append([stage["name"], str(stage["tried"]), str(stage["broke"]), each])
    table(f"the worst case at ε = {reach}", ["stage", "queries tried", "broken", unit], rows)
    print(f"wrong unattacked: {left} of {robust['queries']}")
    kept = f"{robust['kept']} of {counted(robust['queries'], 'query')}"
    print(f"robust R@1: {_value(robust)} ({kept}; 95 %: {_interval(robust)})")


def certificate(found: "dict[str, Any]") -> None:
    """Print certified R@1 at each radius, beside what an attack on the smoothed search leaves."""
    rows = []
    for one in found["radii"]:
        attacked = "" if one["attacked"] is None else _value(one["attacked"])
        reach = f"{255 * one['linf']:.2f}/255"
        rows.append([f"{one['radius']:g}", reach, _value(one), _interval(one), _images(one), attacked])
    copies = counted(found["draws"], "noisy copy")
    noise = f"σ = {found['sigma']:g}, {copies} of each query"
    columns = ["L2 radius", "L∞ inside", "certified R@1", "95 % interval", "queries", "left by an attack"]
    table(f"the smoothed search: {noise}", columns, rows)
    print(f"{copies} can certify a radius of {found['largest']:.3g} at most")
    print(f"abstained: {found['abstained']} (most copies are right, but too few of them to be sure)")


def smallest_radii(minimal: "dict[str, Any]", settings: "Mapping[str, Any]") -> None:
    """Print the quartiles of the smallest ε that break a query, and how many queries nothing broke."""
    most = f"> {format_radius(settings['eps'], settings['norm'])}"
    quartiles = [most if one is None else format_radius(one, settings["norm"]) for one in minimal["quartiles"]]
    beyond = f"{minimal['beyond']} of {counted(minimal['queries'], 'query')}"
    columns = ["broken", "a quarter", "half (median)", "three quarters", most]
    table("minimal ε: the smallest found that breaks a query", columns, [["ε", *quartiles, beyond]])


def curve(results: "Sequence[Result]") -> None:
    """Print the scores of evaluations at rising radii, one row each.

    What breaks a query breaks it in every larger ball: robust R@1 is never above that at a smaller one.
    """
    shown = [{**one.content["columns"], **{name: one.content.get(name) for name in (ROBUST, *MADE)}} for one in results]
    if all(columns[ROBUST] for columns in shown):
        lowest = accumulate((columns[ROBUST] for columns in shown), partial(min, key=itemgetter("value")))
        shown = [{**columns, ROBUST: robust} for columns, robust in zip(shown, lowest, strict=True)]
    names, rows = [name for name, value in shown[0].items() if value], []
    for one, columns in zip(results, shown, strict=True):
        settings = one.content["settings"]
        values = (_value(columns[name]) for name in names)
        rows.append([format_radius(settings["eps"], settings["norm"]), *values, one.verdict])
    table(f"{results[0].name}: scores by ε", ["ε", *names, "verdict"], rows, narrow=True)


def beside_published(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result beside published rows, with where they were published below."""
    place = list(header).index("source")
    shorter = [[*row[:place], *row[place + 1 :]] for row in (header, *rows)]
    table("beside the published rows", shorter[0], shorter[1:], narrow=True)
    for source in dict.fromkeys(row[place] for row in rows if "published" in row):
        print(f"published in: {source}")


def hardened(found: "Comparison") -> None:
    """Print a hardened model beside its original."""
    radii = [f"robust R@1, ε = {format_radius(one.eps, found.norm)}" for one in found.searches[0].robust]
    rows = []
    for one in found.searches:
        cells = (f"{robust.value:.2f} ({robust.low:.1f} to {robust.high:.1f})" for robust in one.robust)
        rows.append([one.queries, one.gallery, f"{one.recall:.2f}", *cells])
    title = f"{found.hardened} beside its original {found.original}, on {found.data}"
    table(title, ["queries by", "gallery by", "R@1", *radii], rows)
    print(f"mean cosine to the original: {found.cosine:.4f}, of {found.images:,} images")
    print(f"robust R@1: of {found.searches[0].robust[0].queries:,} attacked queries; in brackets: 95 % interval")


def answers(found: "Sequence[Sequence[Answer]]") -> None:
    """Print what was found for queries, a table for each."""
    for group in found:
        rows = [[str(one.rank), f"{one.distance:.4f}", printable(one.label), printable(one.path)] for one in group]
        table(printable(group[0].query), ["rank", "distance", "label", "path"], rows)


def compared(found: "Sequence[Compared]") -> None:
    """Print how far an exported model is from the run it is of."""
    rows = []
    for one in found:
        state = "as in the run" if one.ok else "DIFFERS"
        values = ("" if value is None else f"{value:.2f}" for value in (one.before, one.after))
        rows.append([state, one.what, *values, f"{one.difference:.1e}", f"{one.allowed:g}"])
    table("the exported model beside the run", ["", "", "run", "exported", "difference", "allowed"], rows)


def planned(runs: "Sequence[Planned]", seconds: Sequence[float], slots: int) -> None:
    """Print what a sweep has to do, and how long it takes where so many runs are at work at a time."""
    rows = []
    for run, left in zip(runs, seconds, strict=True):
        step, total = run.run.place().step, run.steps()
        evaluations = ", ".join(one.protocol for one in run.missing())
        steps = counted(total, "step")
        training = "trained" if run.trained() else f"{step} of {steps}" if step else steps
        rows.append([run.sweep, run.name, training, evaluations or "–", format_duration(left)])
    table("what is to be done", ["sweep", "run", "training", "evaluations to make", "time left"], rows)
    ways = f", {slots} at a time" if slots > 1 else ""
    total_time = format_duration(sum(left for left in seconds if not isnan(left)) / slots)
    print(f"runs: {len(runs)}; about {total_time}{ways}, evaluations at the most; start-up and validations not counted")


def estimated(name: str, found: "Mapping[str, Estimate]") -> None:
    """Print what evaluations of a model, by what each is of, would take, part by part, and on what that rests."""
    for of, estimate in found.items():
        rows = [
            [one.name, f"{one.passes:,}", *map(format_duration, (one.seconds, one.most)), _gigabytes(one.memory)]
            for one in estimate.parts
        ]
        title = f"{name}{of}: what an evaluation takes"
        table(title, ["", "images passed", "expected", "at most", "peak memory"], rows)
        print(f"expected: {'; '.join(estimate.basis)}")
    seconds, most, took = (sum(getattr(one, what) for one in found.values()) for what in ("seconds", "most", "took"))
    print("not counted: start-up, certificates; at most: no attack ends before its last step")
    print(f"about {format_duration(seconds)}, at most {format_duration(most)}; found out in {format_duration(took)}")


def _gigabytes(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f} GB"


def swept(runs: "Sequence[Planned]", failed: Mapping[Path, str]) -> None:
    """Print what came of a sweep: ``failed`` says why, by the folder of the run."""
    rows = []
    for run in runs:
        reason, log = failed.get(run.folder, ""), run.folder / "log.txt"
        where = f" ({log})" if reason and log.is_file() else ""
        rows.append(["FAILED" if reason else "done", run.sweep, run.name, reason + where])
    table("sweep", ["", "sweep", "run", ""], rows)


def _value(one: dict[str, float]) -> str:
    return f"{one['value']:.3f}"


def _interval(one: dict[str, float | None]) -> str:
    low, high = one.get("low"), one.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _further(found: "Result", name: str) -> str:
    """Whether a score has arrived, or how far it has not."""
    points = found.further(name)
    return "" if points is None else "arrived" if found.arrived(name) else f"{points:.1f} worse"


def _images(one: dict[str, int]) -> str:
    """How many images a score is of, those that count in a share first."""
    kept, images = one.get("kept"), one.get("queries")
    return "" if images is None else f"{images}" if kept is None else f"{kept} of {images}"
