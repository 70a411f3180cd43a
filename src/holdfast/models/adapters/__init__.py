"""Adapters, one for each kind of word that names a model: each opens it, in one file."""
