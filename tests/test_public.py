"""What the package shows: its public names load, and importing it is cheap."""

import subprocess
import sys

import pytest

import holdfast


@pytest.mark.parametrize("name", holdfast.__all__)
def test_public_names_load(name: str) -> None:
    assert getattr(holdfast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = holdfast.no_such_name


def test_the_lists_of_names_agree() -> None:
    assert sorted(name for names in holdfast.HOMES.values() for name in names) == sorted(holdfast.__all__)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, holdfast, holdfast.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
