"""How long an evaluation takes on this machine, and how much memory, found out before it begins."""
