"""A slow twin of the attacks on a search by its answers: one image, one search at a time, in plain lists."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

Ids = Sequence[str]
Image = list[list[float]]
Search = Callable[[Image], list[str]]

HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def discount(rank: int, k: int) -> float:
    """What rank 1, 2, ... of an answer weighs."""
    return 1 / math.log2(rank + 1) / sum(1 / math.log2(r + 1) for r in range(1, k + 1))


def seen(answer: Ids, own: str, k: int) -> list[str]:
    return [one for one in answer if one != own][:k]


def left(answer: Ids, reference: Ids, k: int) -> float:
    """How much of the reference an answer still holds, 0 to 1."""
    return sum(discount(rank, k) for rank, one in enumerate(answer, start=1) if one in reference)


def promotion(answer: Ids, item: str, neighbours: Ids, k: int) -> float:
    """The value of an answer for who promotes an item; the least there is where it is first."""
    if answer[:1] == [item]:
        return -(10 * discount(1, k) + sum(discount(rank, k) for rank in range(1, k + 1)))
    near = 10 * sum(discount(rank, k) for rank, one in enumerate(answer, start=1) if one == item)
    return -(near + sum(discount(rank, k) for rank, one in enumerate(answer, start=1) if one in neighbours))


@dataclass
class Course:
    """What was asked, and what came of it."""

    image: Image
    answers: list[list[str]] = field(default_factory=list)


def square_attack(
    search: Search,
    image: Image,
    value: Callable[[Ids], float],
    *,
    floor: float,
    eps: float,
    searches: int,
    generator: torch.Generator,
) -> Course:
    """Square's proposals on a grey image, taken wherever the value does not rise; the clean image is asked first."""
    course = Course([row[:] for row in image])
    course.answers.append(search(image))
    here, steps, height, width = value(course.answers[0]), searches - 1, len(image), len(image[0])
    for step in range(steps):
        if here <= floor:
            break
        halvings = sum(step / steps > point for point in HALVED)
        side = min(height, width, max(1, round(math.sqrt(0.3 / 2**halvings * height * width))))
        corner = torch.rand((1, 1, 2), generator=generator).flatten().tolist()
        sign = torch.rand((1, 1, 1, 1), generator=generator).item()
        top, start = int(corner[0] * (height - side + 1)), int(corner[1] * (width - side + 1))
        moved = [row[:] for row in course.image]
        for y in range(top, top + side):
            for x in range(start, start + side):
                shift = -2 * eps if sign > 0.5 else 2 * eps
                r = min(eps, max(-eps, course.image[y][x] - image[y][x] + shift))
                moved[y][x] = min(1.0, max(0.0, image[y][x] + r))
        course.answers.append(search(moved))
        there = value(course.answers[-1])
        if there <= here:
            course.image, here = moved, there
    return course
