"""What a deployed system meets beside the attacks of an evaluation: worn images, false matches, hubs, and one
perturbation for every query."""

THREATS = {
    "hub": "gallery images come first for as many queries as possible, whatever is asked for",
    "universal": "one perturbation for all queries makes their first results wrong",
    "patch": "one patch, put anywhere on a query, makes its first result wrong",
}
"""The threats that ``holdfast attack`` carries out beside :data:`.ATTACKS`, and what they do."""

FAR = 0.01
"""The false accept rate that a verifier's threshold is for, unless another is asked for."""
