"""The items of a test set as a table of vectors in PostgreSQL, which pgvector searches.

    python examples/pgvector_table.py zoo:digits-none-r postgresql://localhost/shop digits
    holdfast attack zoo:digits-none-r --search 'postgresql://localhost/shop?table=digits' --attack rank-feedback

The items are the gallery of the model's test set, or of ``--data`` and ``--root``; their ids are their places in it,
from 0. ``--index cosine`` builds an HNSW index for that distance as well, ``--index l2`` for the Euclidean one.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util.extras import require


def fill(connection: Any, table: str, items: Tensor, index: str | None = None) -> None:
    """Make a table of the vectors (N, D)."""
    sql = require("psycopg.sql", "pgvector")
    name = sql.Identifier(table)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    columns = sql.SQL("id integer PRIMARY KEY, embedding vector({})").format(sql.Literal(items.shape[1]))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, columns))
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(name)) as rows:
        for i, vector in enumerate(items.tolist()):
            rows.write_row((i, str(vector)))
    if index:
        operators = sql.SQL(f"vector_{index}_ops")
        connection.execute(sql.SQL("CREATE INDEX ON {} USING hnsw (embedding {})").format(name, operators))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as of 'holdfast evaluate'")
    parser.add_argument("address", help="postgresql://HOST/DATABASE")
    parser.add_argument("table", help="of that name; there is none yet")
    parser.add_argument("--data", help="data set; by default that of the model's run")
    parser.add_argument("--root", type=Path, help="where it lies")
    parser.add_argument("--index", choices=["l2", "cosine"], help="build an HNSW index as well")
    options = parser.parse_args(arguments)
    model = open_model(options.model)
    pixels = load_test_set(model, data=options.data, root=options.root)
    items = embed_dataset(model.embed, pixels, torch.device("cpu")).gallery.embeddings
    with require("psycopg", "pgvector").connect(options.address) as connection:
        fill(connection, options.table, items, options.index)
    print(f"{len(items):,} items in table {options.table}")


if __name__ == "__main__":
    main()
