"""Standard streams: no character and no reader that is gone ends the work."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli.streams import lasting


def test_what_an_encoding_lacks_is_written_out() -> None:
    read, write = os.pipe()
    with io.TextIOWrapper(io.FileIO(write, "w"), encoding="cp1252") as stream:
        print("ε = 8/255, ü", file=lasting(stream), flush=True)
    with os.fdopen(read, encoding="cp1252") as written:
        assert written.read() == "\\u03b5 = 8/255, ü\n"


def test_a_reader_that_is_gone_is_not_missed() -> None:
    read, write = os.pipe()
    os.close(read)
    with io.TextIOWrapper(io.FileIO(write, "w"), encoding="utf-8") as stream:
        for _ in range(3):
            print("x" * 100_000, file=lasting(stream), flush=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "holdfast: cannot write to standard output: No space left on device\n"


def test_the_command_line_writes_to_such_streams() -> None:
    command = [sys.executable, "-m", "holdfast", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
