"""What the package shows: its public names load, and importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast


@pytest.mark.parametrize("name", holdfast.__all__)
def test_public_names_load(name: str) -> None:
    assert getattr(holdfast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = holdfast.no_such_name


def test_the_lists_of_names_agree() -> None:
    imports = (n for n in ast.walk(ast.parse(Path(holdfast.__file__).read_text())) if isinstance(n, ast.ImportFrom))
    typed = {name.asname: str(n.module).removeprefix("holdfast.") for n in imports for name in n.names if name.asname}
    assert typed == holdfast.HOMES, "what type checkers see"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, holdfast, holdfast.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
