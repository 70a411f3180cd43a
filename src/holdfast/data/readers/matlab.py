"""MATLAB files, read in a process of their own: damaged ones can crash the reader of scipy, or make it fill memory."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS, MEMORY, LETTERS = 300, 2**32, 2**26
"""What the process may take, and the length of what it may find."""


def read_mat(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The variables of these names as plain data: a struct array is a list of mappings, or one mapping."""
    from holdfast.data.decode import no_file  # noqa: PLC0415 (the process needs none of these)
    from holdfast.util.errors import HoldfastError, printable  # noqa: PLC0415
    from holdfast.util.validate import parse_json  # noqa: PLC0415

    if reason := no_file(path):
        raise HoldfastError(f"cannot read {path}: {reason}")
    command = [sys.executable, "-P", __file__, str(path), *names]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise HoldfastError(f"cannot read {path}: that takes longer than {SECONDS} seconds") from None
    if done.returncode:
        said = printable(done.stdout.decode(errors="replace")) if done.returncode == 1 else ""
        raise HoldfastError(f"cannot read {path}: {said or 'it is damaged, and crashes the reader of MATLAB files'}")
    content: dict[str, Any] = parse_json(done.stdout, f"what {path} holds")
    return content


def _main(file: str, names: list[str]) -> int:
    from scipy.io import loadmat  # noqa: PLC0415 (slow to import, and only needed here)

    with suppress(ImportError, OSError, ValueError):  # not every system limits memory
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        found = loadmat(file, variable_names=names, simplify_cells=True)
        text = json.dumps({name: found[name] for name in names if name in found}, default=lambda one: one.tolist())
        if len(text) > LETTERS:
            raise ValueError(f"it holds more than the {LETTERS:,} letters that are read")
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        print(" ".join(f"{error or type(error).__name__}".split())[:500], end="")
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2:]))
