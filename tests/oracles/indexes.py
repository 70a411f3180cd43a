"""What indexes do, worked out one vector and one number at a time."""

from collections.abc import Sequence

Vector = Sequence[float]


def squared(a: Vector, b: Vector) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def scalar_quantised(vectors: Sequence[Vector]) -> list[list[float]]:
    """Each number as the middle of the 256th part of its column's range that it lies in."""
    columns = [*zip(*vectors, strict=True)]
    decoded = []
    for vector in vectors:
        row = []
        for x, column in zip(vector, columns, strict=True):
            low, width = min(column), max(column) - min(column)
            code = int(min(max((x - low) / width, 0.0), 1.0) * 255) if width else 0
            row.append(low + (code + 0.5) / 255 * width)
        decoded.append(row)
    return decoded


def product_quantised(vectors: Sequence[Vector], centroids: Sequence[Sequence[Vector]]) -> list[list[float]]:
    """Each part of a vector as the nearest of its part's centroids."""
    width = len(centroids[0][0])
    decoded = []
    for vector in vectors:
        row: list[float] = []
        for i, choices in enumerate(centroids):
            part = vector[i * width : (i + 1) * width]
            row += min(choices, key=lambda one, part=part: squared(part, one))  # type: ignore[misc]
        decoded.append(row)
    return decoded


def two_stages(query: Vector, vectors: Sequence[Vector], rescored: int) -> set[int]:
    """What may come first: the nearest of those that share most signs; several where signs tie at the edge."""
    apart = [sum((x > 0) != (y > 0) for x, y in zip(query, vector, strict=True)) for vector in vectors]
    edge = sorted(apart)[min(rescored, len(vectors)) - 1]
    inside = [i for i, one in enumerate(apart) if one < edge]
    best = min((squared(query, vectors[i]) for i in inside), default=float("inf"))
    found = {i for i in inside if squared(query, vectors[i]) == best}
    return found | {i for i, one in enumerate(apart) if one == edge and squared(query, vectors[i]) < best}
