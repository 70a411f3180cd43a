"""Which module may import which, read from the source: lazy imports count too."""

import ast
from pathlib import Path

import pytest

import holdfast

SOURCE = Path(holdfast.__file__).parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("util",),
    ("core",),
    ("defense", "attacks", "metrics"),
    ("data",),
    ("runs",),
    ("models",),
    ("training", "evaluation"),
    ("threats",),
    ("search", "sweep", "report"),
    ("explorer", "export", "gate"),
    ("cli",),
    ("__init__", "__main__"),
)
"""From the bottom up. A module imports from the layers below its own and from its own package, nothing else."""

FAMILIES = {"cli", "data/readers", "models/adapters", "report/html/sections"}
"""Folders of like things, one file each, which may be more than :data:`MOST_MODULES`."""
MOST_MODULES, MOST_LINES = 10, 350


def modules(root: Path) -> dict[str, Path]:
    """Every module by its dotted name below the package, such as ``data.table``; the package itself is ``__init__``."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = path
    return found


def imports(path: Path, package: str) -> set[str]:
    """Dotted names a file imports, also inside functions. ``package`` resolves relative ones."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports by name; for the version nothing of it is needed."""
    files, found = modules(root), dict[str, set[str]]()
    for module, path in files.items():
        found[module] = set()
        for name in imports(path, ".".join((root.name, *path.relative_to(root).parent.parts))):
            top, _, below = name.partition(".")
            if top == root.name and below != "__version__":
                parts = below.split(".")
                known = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
                found[module].add(next((one for one in known if one in files), "__init__"))
        found[module].discard(module)
    return found


def reach(inside: dict[str, set[str]], start: str) -> set[str]:
    """What a module imports, directly or through others."""
    seen, ahead = set[str](), list(inside[start])
    while ahead:
        if (name := ahead.pop()) not in seen:
            seen.add(name)
            ahead += inside[name]
    return seen


def violations(root: Path) -> list[str]:
    """Every import that goes against the layers, every module that stands in none, and every cycle."""
    inside, found = graph(root), []
    layer = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    for module in inside:
        package = module.split(".")[0]
        if package not in layer:
            found.append(f"{module} stands in no layer")
            continue
        for name in inside[module]:
            other = name.split(".")[0]
            if other != package and layer.get(other, len(LAYERS)) >= layer[package]:
                found.append(f"{module} imports {name}")
    return sorted([*found, *(f"{one} imports itself through others" for one in inside if one in reach(inside, one))])


def test_the_layers_hold() -> None:
    assert {package for layer in LAYERS for package in layer} == {name.split(".")[0] for name in modules(SOURCE)}
    assert violations(SOURCE) == []


def test_folders_and_files_are_small() -> None:
    files = list(SOURCE.rglob("*.py"))
    counts = {
        folder: sum(file.parent == folder and file.name != "__init__.py" for file in files)
        for folder in {file.parent for file in files}
    }
    large = {f.relative_to(SOURCE).as_posix(): count for f, count in counts.items() if count > MOST_MODULES}
    assert {name: count for name, count in large.items() if name not in FAMILIES} == {}
    lines = {file.relative_to(SOURCE).as_posix(): len(file.read_text().splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"core/distance.py": "from holdfast.models.hub import push"}, ["core.distance imports models.hub"]),
        ({"core/distance.py": "def f():\n    from holdfast import train"}, ["core.distance imports __init__"]),
        ({"defense/base.py": "from holdfast.attacks.rank import CA"}, ["defense.base imports attacks.rank"]),
        ({"attacks/rank.py": "from ..defense import base"}, ["attacks.rank imports defense.base"]),
        ({"metrics/benign.py": "import holdfast.report.html"}, ["metrics.benign imports report.html"]),
        ({"attic.py": ""}, ["attic stands in no layer"]),
        (
            {"core/a.py": "from holdfast.core import b", "core/b.py": "def f():\n    from holdfast.core.a import g"},
            ["core.a imports itself through others", "core.b imports itself through others"],
        ),
        ({"cli/__init__.py": "def main():\n    from holdfast.runs import config"}, []),
        ({"core/a.py": "from holdfast.util.errors import pick\nfrom .distance import pairs"}, []),
        ({"report/html.py": "from holdfast import __version__"}, []),
    ],
)
def test_the_checker_sees_violations(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    root = tmp_path / "holdfast"
    names = "util/errors core/distance defense/base attacks/rank metrics/benign runs/config models/hub report/html"
    packages = {f"{name.partition('/')[0]}/__init__.py": "" for name in [*names.split(), "cli/"]}
    for name, text in {**packages, **{f"{name}.py": "" for name in names.split()}, "__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert violations(root) == expected
