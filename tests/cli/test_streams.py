"""Standard streams: no character and no reader that is gone ends the work."""

import io
import os
import subprocess
import sys

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


def test_the_command_line_writes_to_such_streams() -> None:
    command = [sys.executable, "-m", "holdfast", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
