"""A training run as files: its settings, and its folder."""
