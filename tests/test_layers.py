"""Which module may import which, read from the source: lazy imports and the packages above a module count too."""

import ast
from collections.abc import Iterator
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
    ("search", "sweep", "report"),
    ("explorer", "export"),
    ("cli",),
    ("__init__", "__main__"),
)
"""From the bottom up. A module imports from the layers below its own and from its own package, nothing else."""

FAMILIES = {"cli", "data/readers", "report/html/sections"}
"""Folders of like things, one file each, which may be more than :data:`MOST_MODULES`."""
MOST_MODULES, MOST_LINES = 10, 350


def modules(root: Path) -> dict[str, Path]:
    """Every module by its dotted name below the package, such as ``data.table``; the package itself is ``__init__``."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = path
    return found


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported: everything but function bodies and blocks for type checkers."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from statements(statement.orelse)
            continue
        yield statement
        for block in ("body", "orelse", "finalbody"):
            yield from statements(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from statements(handler.body)


def imports(path: Path, package: str, lazy: bool) -> set[str]:
    """Dotted names a file imports; with ``lazy`` also those inside functions. ``package`` resolves relative ones."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if lazy else statements(tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


class Graph:
    """The imports of a package's modules among themselves and of the outside."""

    def __init__(self, root: Path, lazy: bool) -> None:
        self.files, self.root, self.lazy = modules(root), root, lazy

    def outside(self, module: str) -> set[str]:
        return {name.split(".")[0] for name in self._imports(module)} - {self.root.name}

    def inside(self, module: str) -> set[str]:
        """Modules of the package that a module imports by name; for the version nothing of it is needed."""
        found = set()
        for name in self._imports(module):
            top, _, below = name.partition(".")
            if top == self.root.name and below != "__version__":
                parts = below.split(".")
                known = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
                found.add(next((one for one in known if one in self.files), "__init__"))
        return found - {module}

    def runs(self, module: str) -> set[str]:
        """What importing a module runs: what it names, and the packages above these."""
        above = {name.rsplit(".", i)[0] for name in self.inside(module) for i in range(name.count(".") + 1)}
        return (self.inside(module) | above) & set(self.files)

    def reach(self, *starts: str) -> set[str]:
        """The modules and all they import, directly or not."""
        seen, ahead = set(), list(starts)
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += self.runs(name)
        return seen

    def cycles(self) -> set[str]:
        """The modules that import themselves through others."""
        reach = {name: self._below(name) for name in self.files}
        return {name for name, below in reach.items() if name in below}

    def _below(self, start: str) -> set[str]:
        seen, ahead = set(), list(self.inside(start))
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += self.inside(name)
        return seen

    def _imports(self, module: str) -> set[str]:
        path = self.files[module]
        dotted = ".".join((self.root.name, *path.relative_to(self.root).parent.parts))
        return imports(path, dotted, self.lazy)


def violations(root: Path) -> list[str]:
    """Every import that goes against the layers, every module that stands in none, and every cycle."""
    graph, found = Graph(root, lazy=True), []
    layer = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    for module in graph.files:
        package = module.split(".")[0]
        if package not in layer:
            found.append(f"{module} stands in no layer")
            continue
        for name in graph.inside(module):
            other = name.split(".")[0]
            if other != package and layer.get(other, len(LAYERS)) >= layer[package]:
                found.append(f"{module} imports {name}")
    found += [f"{module} imports itself through others" for module in graph.cycles()]
    at_import = Graph(root, lazy=False)
    started = at_import.reach(*{"__init__", "cli"} & set(at_import.files))
    found += [f"the command line imports torch in {name}" for name in started if "torch" in at_import.outside(name)]
    return sorted(found)


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


def test_the_core_is_found_to_import_what_it_does() -> None:
    assert Graph(SOURCE, lazy=True).inside("core.samplers") == {"core.distance", "util.errors", "core.triplets"}
    assert "torch" in Graph(SOURCE, lazy=False).outside("core.samplers")
    assert "core.distance" in Graph(SOURCE, lazy=True).reach("defense.recipes")


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
        ({"cli/__init__.py": "import torch.nn"}, ["the command line imports torch in cli"]),
        ({"cli/__init__.py": "from holdfast.runs import config"}, ["the command line imports torch in runs.config"]),
        (
            {"cli/__init__.py": "try:\n    import torch\nexcept ImportError:\n    pass"},
            ["the command line imports torch in cli"],
        ),
        ({"cli/__init__.py": "class A:\n    from torch import nn"}, ["the command line imports torch in cli"]),
        ({"cli/__init__.py": "def main():\n    import torch\n    from holdfast.runs import config"}, []),
        ({"cli/__init__.py": "if TYPE_CHECKING:\n    import torch"}, []),
        ({"core/a.py": "from holdfast.util.errors import pick\nfrom .distance import pairs"}, []),
        ({"report/html.py": "from holdfast import __version__"}, []),
        ({"__init__.py": "from torch import Tensor"}, ["the command line imports torch in __init__"]),
    ],
)
def test_the_checker_sees_violations(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    root = tmp_path / "holdfast"
    names = "util/errors core/distance defense/base attacks/rank metrics/benign runs/config models/hub report/html"
    base = {f"{name}.py": "" for name in names.split()} | {"runs/config.py": "import torch", "__init__.py": ""}
    packages = {f"{name.partition('/')[0]}/__init__.py": "" for name in [*names.split(), "cli/"]}
    for name, text in {**packages, **base, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert violations(root) == expected
