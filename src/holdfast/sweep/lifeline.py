"""Processes that end with the one that started them, however it ends: it holds their standard input open."""

import os
import threading

VARIABLE = "HOLDFAST_ENDS_WITH_STDIN"


def hold() -> None:
    """Where the environment asks for it, end this process at once when its standard input ends; nothing comes by it."""
    if VARIABLE in os.environ:
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
