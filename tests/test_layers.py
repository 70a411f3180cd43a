"""Which module may import which, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast

SOURCE = Path(holdfast.__file__).parent
CORE = {"distance", "triplets", "samplers", "perturb"}
DEFENSE = {"goals", "losses", "destinations", "defense", "recipes"}
EVALUATION = {"retrieval", "attacks", "protocols", "checks", "gauges", "clustering"}
TOP = {"train", "run", "cli", "config", "data", "report"}


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
        """Modules of the package that a module imports, and the packages above them, which run first."""
        found = set()
        for name in self._imports(module):
            top, _, below = name.partition(".")
            if top == self.root.name:
                parts = below.split(".")
                found |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)} & set(self.files) or {"__init__"}
        return found - {module}

    def reach(self, *modules: str) -> set[str]:
        """The modules and all they import, directly or not."""
        seen, ahead = set(), list(modules)
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += self.inside(name)
        return seen

    def members(self, layer: set[str]) -> list[str]:
        return sorted(name for name in self.files if name.split(".")[0] in layer)

    def _imports(self, module: str) -> set[str]:
        path = self.files[module]
        dotted = ".".join((self.root.name, *path.relative_to(self.root).parent.parts))
        return imports(path, dotted, self.lazy)


def violations(root: Path) -> list[str]:
    """Every import that goes against the layers."""
    graph, found = Graph(root, lazy=True), []
    for layer, allowed, forbidden in (
        (CORE, CORE | {"errors"}, None),
        (DEFENSE, None, EVALUATION | TOP),
        (EVALUATION, None, DEFENSE | TOP),
    ):
        for module in graph.members(layer):
            for name in graph.inside(module):
                part = name.split(".")[0]
                if (allowed is not None and part not in allowed) or (forbidden is not None and part in forbidden):
                    found.append(f"{module} imports {name}")
    at_import = Graph(root, lazy=False)
    started = at_import.reach(*{"__init__", "cli"} & set(at_import.files))
    found += [f"the command line imports torch in {name}" for name in started if "torch" in at_import.outside(name)]
    return sorted(found)


def test_the_layers_hold() -> None:
    assert set(modules(SOURCE)) >= CORE
    assert violations(SOURCE) == []


def test_the_core_is_found_to_import_what_it_does() -> None:
    assert Graph(SOURCE, lazy=True).inside("samplers") == {"distance", "errors", "triplets"}
    assert "torch" in Graph(SOURCE, lazy=False).outside("samplers")
    assert "distance" in Graph(SOURCE, lazy=True).reach("recipes")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"distance.py": "from holdfast.embedder import Embedder"}, ["distance imports embedder"]),
        ({"distance.py": "def f():\n    from holdfast import train"}, ["distance imports train"]),
        ({"goals.py": "from holdfast.attacks.rank import CA"}, ["goals imports attacks", "goals imports attacks.rank"]),
        ({"attacks/rank.py": "from ..defense import Defense"}, ["attacks.rank imports defense"]),
        (
            {"retrieval.py": "import holdfast.report.html"},
            ["retrieval imports report", "retrieval imports report.html"],
        ),
        ({"cli.py": "import torch.nn"}, ["the command line imports torch in cli"]),
        ({"cli.py": "from holdfast import config"}, ["the command line imports torch in config"]),
        (
            {"cli.py": "try:\n    import torch\nexcept ImportError:\n    pass"},
            ["the command line imports torch in cli"],
        ),
        ({"cli.py": "class A:\n    from torch import nn"}, ["the command line imports torch in cli"]),
        ({"cli.py": "def main():\n    import torch\n    from holdfast import train"}, []),
        ({"cli.py": "if TYPE_CHECKING:\n    import torch"}, []),
        ({"distance.py": "from holdfast.errors import pick\nfrom .triplets import take"}, []),
        ({"__init__.py": "from torch import Tensor"}, ["the command line imports torch in __init__"]),
        ({"__init__.py": "from holdfast.config import Config"}, ["the command line imports torch in config"]),
        ({"distance.py": "from holdfast import Embedder"}, ["distance imports __init__"]),
    ],
)
def test_the_checker_sees_violations(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    root = tmp_path / "holdfast"
    (root / "attacks").mkdir(parents=True)
    (root / "report").mkdir()
    names = "errors embedder distance triplets goals defense retrieval train config attacks/rank report/html"
    base = {f"{name}.py": "" for name in names.split()} | {"config.py": "import torch"}
    packages = {"__init__.py": "", "attacks/__init__.py": "", "report/__init__.py": ""}
    for name, text in {**packages, **base, **files}.items():
        (root / name).write_text(text)
    assert violations(root) == expected
