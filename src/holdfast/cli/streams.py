"""What the command line writes to: no character, no reader that is gone and no full disk ends the work."""

import io
import os
import sys
from typing import TextIO


class _Pipe(io.FileIO):
    """A file descriptor to write to, which drops what cannot be written.

    ``lost``: why something was, as on a full disk; None where nobody reads any more, as after ``| head -1``.
    """

    lost: OSError | None = None

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.lost = error
            return memoryview(data).nbytes  # type: ignore[arg-type]


def lasting(stream: TextIO) -> TextIO:
    """The stream, with ``\\u03b5`` for an ε that its encoding lacks; what cannot be written is dropped."""
    stream.flush()
    raw = _Pipe(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty() or stream is sys.stderr,
    )


def protect() -> None:
    """Make the standard streams lasting, where they are those that Python began with."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, lasting(stream))


def speaks() -> bool:
    """Whether this process prints results: of those that torchrun started, the first."""
    return os.environ.get("RANK", "0") == "0"


def lost(stream: TextIO) -> OSError | None:
    """Why a lasting stream had to drop something that was wanted; None where it did not."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Pipe) else None
