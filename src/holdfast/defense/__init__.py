"""Defenses: draw triplets, perturb some of their roles toward a goal, learn from what comes out."""
