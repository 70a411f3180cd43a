"""Evaluation through the index that a gallery is searched by."""
