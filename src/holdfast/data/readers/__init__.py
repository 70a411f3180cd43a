"""Readers, one for each layout of files: each gives a table."""
