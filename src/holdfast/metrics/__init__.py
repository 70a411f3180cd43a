"""Scores of embeddings as they are: retrieval, clustering, collapse."""
