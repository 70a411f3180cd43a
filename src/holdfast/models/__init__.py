"""Models: the embedder, its backbones and weights, and any other model by one word."""
