"""``python -m holdfast`` is the command line, as torchrun wants it."""

from holdfast.cli import main

main()
