"""One run of a sweep, trained and evaluated by processes of its own, which end with the one that started them."""

import shlex
import subprocess

from holdfast.sweep import lifeline
from holdfast.sweep.plan import Planned
from holdfast.sweep.slots import Slot

LOG = "log.txt"
SAYS = "holdfast: "
"""What the command line says goes wrong begins so; torchrun adds much after it."""


def execute(run: Planned, slot: Slot, stdin: int = subprocess.PIPE) -> str | None:
    """Do what is left of a run, and say why some is left still; None: nothing is.

    stdin: of its processes, which end where it does: a pipe whose other end this process holds.
    """
    if not run.trained():
        if run.start and not run.start.trained():
            return f"the run it starts from is not trained: {run.start.folder}"
        why = _call(run, slot, stdin, *run.words())
        if not run.trained():
            return f"train: {why}"
    for one in run.missing():
        why = _call(run, slot, stdin, "evaluate", str(run.folder), *one.options())
        if not one.done(run.run, run.config):
            return f"evaluate {one.protocol}: {why}"
    return None


def _call(run: Planned, slot: Slot, stdin: int, *words: str) -> str:
    """Call ``holdfast``, its output behind the log of the run; what it said goes wrong, or else its last line."""
    command, environment = slot.command(*words), slot.environment() | {lifeline.VARIABLE: "1"}
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / LOG).open("a+b") as log:
        log.write(f"$ {shlex.join(['python', *command[1:]])}\n".encode())
        log.flush()
        begin = log.tell()
        status = subprocess.call(command, stdin=stdin, stdout=log, stderr=log, env=environment)
        log.seek(begin)
        lines = log.read().decode(errors="replace").splitlines() or [""]
    said = [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS)]
    return said[-1] if said else f"exit status {status}: {lines[-1]}"
