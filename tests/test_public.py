"""What the package shows: its public names load, are documented, and importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

SOURCES = sorted((Path(__file__).parents[1] / "src" / "holdfast").rglob("*.py"))


@pytest.mark.parametrize("name", holdfast.__all__)
def test_public_names_load(name: str) -> None:
    assert getattr(holdfast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = holdfast.no_such_name


def test_the_lists_of_names_agree() -> None:
    imports = (n for n in ast.walk(ast.parse(SOURCES[0].read_text())) if isinstance(n, ast.ImportFrom))
    typed = {name.asname: str(n.module).removeprefix("holdfast.") for n in imports for name in n.names if name.asname}
    assert typed == holdfast.HOMES, "what type checkers see"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, holdfast, holdfast.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def undocumented(source: str) -> list[str]:
    """Public functions and classes of a module that have no docstring, and the module itself."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["module"]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            missing += [] if ast.get_docstring(node) else [node.name]
    return missing


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_everything_public_is_documented(path: Path) -> None:
    assert not undocumented(path.read_text())


def test_a_missing_docstring_is_found() -> None:
    assert undocumented('"""Doc."""\ndef shown(): ...\ndef _hidden(): ...\nclass Shown: ...') == ["shown", "Shown"]
