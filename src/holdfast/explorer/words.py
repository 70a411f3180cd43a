"""What the attacks do and what is read off them, in words that fit on the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What a reading is. unit: ``"%"``, ``"yes"`` (100 is yes, 0 no), or none."""

    words: str
    unit: str = ""


@dataclass(frozen=True)
class Words:
    """An attack on a query: a title, what it does (aim), and what each of its readings is, in their order.

    target: what the chosen gallery images are to the attack; empty where it chooses none.
    """

    title: str
    aim: str
    readings: tuple[Reading, ...]
    target: str = ""


FIRST_RIGHT = Reading("first answer of the right class", "yes")
PLACE = Reading("place of the target from the top, in % of the gallery", "%")
KEPT = Reading("mean place of the five that should stay on top, in % of the gallery", "%")

WORDS: dict[str, Words] = {
    "es": Words(
        "ES: as far away as possible",
        "Moves the embedding as far as it can from where it was.",
        (Reading("distance the embedding moved, 0 to 2"), FIRST_RIGHT),
    ),
    "tma": Words(
        "TMA: like another image",
        "Gives the query the embedding of a random gallery image.",
        (Reading("cosine to the target's embedding, −1 to 1"),),
        "the image it is made like",
    ),
    "qa+": Words(
        "QA+: raise an image", "Brings a random gallery image to the top.", (PLACE,), "the image to be raised"
    ),
    "qa-": Words(
        "QA−: sink a good answer", "Sends one of the nearest 1 % to the bottom.", (PLACE,), "the image to be sunk"
    ),
    "gtm": Words(
        "GTM: onto the nearest wrong image",
        "Moves the query onto the nearest image of another class.",
        (FIRST_RIGHT,),
        "the image it is pulled onto",
    ),
    "ltm": Words(
        "LTM: a wrong answer first", "Brings some image of another class before all of its own.", (FIRST_RIGHT,)
    ),
    "gtt": Words(
        "GTT: lose the best answer",
        "Pushes the first answer out of the first four.",
        (Reading("best answer still among the first four", "yes"),),
        "the best answer, to be lost",
    ),
    "spqa+": Words(
        "SPQA+: raise an image unnoticed",
        "Brings a random gallery image to the top while the best five answers stay there.",
        (PLACE, KEPT),
        "the image to be raised, then the five to be kept",
    ),
    "spqa-": Words(
        "SPQA−: sink an answer unnoticed",
        "Sends one of the nearest 1 % to the bottom while the best five answers stay on top.",
        (PLACE, KEPT),
        "the image to be sunk, then the five to be kept",
    ),
    "oa": Words(
        "OA: reorder the top five",
        "Brings the five best answers into an order drawn at random, and keeps them on top.",
        (Reading("agreement with the wanted order, −1 to 1"), KEPT),
        "the five, in the order wanted",
    ),
}
"""By the name in :data:`.attacks.ATTACKS`; those that perturb a gallery image are not for a page about one query."""
