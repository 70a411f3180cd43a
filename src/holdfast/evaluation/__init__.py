"""Evaluations: attack a model, score it, find out whether the score can be trusted, write it down."""
