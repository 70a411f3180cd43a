"""``python -m holdfast`` is the command line, as torchrun and sweeps want it."""

from holdfast.cli import main
from holdfast.sweep.lifeline import hold

hold()
main()
