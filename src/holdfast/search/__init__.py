"""Embedded images that can be searched."""
