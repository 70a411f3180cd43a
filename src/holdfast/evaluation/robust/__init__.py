"""Robust R@1 and what goes with it: the worst case that can be found."""
