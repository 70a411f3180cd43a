"""The explorer: a local page on which one image is attacked, and the ranking of each model watched. Extra: serve."""
