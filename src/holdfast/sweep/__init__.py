"""A matrix of runs from a file: planned, estimated, carried out."""
