"""``postgresql://HOST/DATABASE?table=TABLE``: a column of vectors in PostgreSQL, searched by pgvector."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from holdfast.search.oracles.base import SearchOracle
from holdfast.search.oracles.postgres import Address, Database, parse_address
from holdfast.util.errors import HoldfastError, pick, shown, unknown
from holdfast.util.text import counted

DISTANCES = {"l2": "<->", "cosine": "<=>", "ip": "<#>", "l1": "<+>"}
"""pgvector's operators by what ``distance=`` calls them."""
COLUMNS = """
    SELECT n.nspname, c.relname, pg_table_is_visible(c.oid), a.attname, t.typname, e.nspname, c.oid, a.attnum
    FROM pg_extension x
    JOIN pg_namespace e ON e.oid = x.extnamespace
    JOIN pg_type t ON t.typnamespace = e.oid AND t.typname IN ('vector', 'halfvec')
    JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.attisdropped
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE x.extname = 'vector' ORDER BY n.nspname, c.relname, a.attnum"""
NAMES = "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
PRIMARY_KEY = """
    SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indisprimary AND i.indrelid = %s ORDER BY a.attnum"""
INDEXED = """
    SELECT DISTINCT o.oprname
    FROM pg_index i
    JOIN pg_opclass c ON c.oid = i.indclass[0]
    JOIN pg_amop p ON p.amopfamily = c.opcfamily AND p.amoppurpose = 'o'
    JOIN pg_operator o ON o.oid = p.amopopr
    WHERE i.indisvalid AND i.indrelid = %s AND i.indkey[0] = %s"""
"""The operators by which an index on a column sorts."""


@dataclass(frozen=True)
class Column:
    """A column of vectors, as PostgreSQL's catalogue has it. visible: the table can be named without its schema."""

    schema: str
    table: str
    visible: bool
    name: str
    type: str
    extension: str
    oid: int
    number: int

    @property
    def said(self) -> str:
        return self.table if self.visible else f"{self.schema}.{self.table}"


@contextmanager
def open_pgvector(word: str) -> Iterator[SearchOracle]:
    """The search of a column by vectors (n, D). Ids are those of its rows.

    The column is the table's only one of vectors, the id its primary key, and the distance that of the index on the
    column, Euclidean without one; ``column=``, ``id=`` and ``distance=`` say otherwise. Without an index rows that are
    equally far come in the order of their ids. Nothing is written. Raises HoldfastError where there is no such server,
    database, table or column, where one of these has to be said, and where the search fails for good.
    """
    address = parse_address(word)
    with Database(address) as database:
        column = _column(database, address)
        yield _search(database, column, _id(database, address, column), *_operator(database, address, column))


def _search(database: Database, column: Column, key: str, operator: str, indexed: bool) -> SearchOracle:
    sql = database.psycopg.sql

    def named(*names: str) -> Any:
        return sql.Identifier(*(name.replace("%", "%%") for name in names))  # %s stands for a value

    parts = {
        "table": named(column.schema, column.table),
        "vector": named("item", column.name),
        "id": named("item", key),
        "type": named(column.extension, column.type),
        "dims": named(column.extension, "vector_dims"),
        "distance": sql.SQL("OPERATOR({}.{})").format(named(column.extension), sql.SQL(operator)),
        "ties": sql.SQL("" if indexed else ", {}").format(named("item", key)),
    }
    one = sql.SQL("SELECT {dims}({vector}) FROM {table} AS item WHERE {vector} IS NOT NULL LIMIT 1").format(**parts)
    nearest = sql.SQL(
        "SELECT {id}::text FROM {table} AS item WHERE {vector} IS NOT NULL "
        "ORDER BY {vector} {distance} %s::{type}{ties} LIMIT %s"
    ).format(**parts)
    found = database.rows(one)
    if not found:
        raise HoldfastError(f"table {shown(column.said)} holds no vectors")
    dim = found[0][0]

    def search(vectors: Tensor, k: int) -> Iterator[Sequence[str]]:
        if vectors.shape[1] != dim:
            raise HoldfastError(
                f"the model's vectors have {vectors.shape[1]} dimensions, those of table {shown(column.said)} {dim}"
            )
        for vector in vectors.tolist():
            ids = [row[0] for row in database.rows(nearest, json.dumps(vector), k)]
            if None in ids:
                raise HoldfastError(f"column {shown(key)} of table {shown(column.said)} is no id: it is null in a row")
            yield ids

    return search


def _column(database: Database, address: Address) -> Column:
    columns = [Column(*row) for row in database.rows(COLUMNS)]
    if not columns:
        if not database.rows("SELECT FROM pg_extension WHERE extname = 'vector'"):
            raise HoldfastError(f"{database.name} has no pgvector: CREATE EXTENSION vector makes it")
        raise HoldfastError(f"{database.name} has no column of type vector or halfvec")
    tables = list(dict.fromkeys(one.said for one in columns))
    wanted = address.own.get("table")
    if wanted is None:
        raise HoldfastError(f"the search names no table: add table=TABLE to it (allowed: {', '.join(tables)})")
    columns = [one for one in columns if wanted == f"{one.schema}.{one.table}" or (one.visible and wanted == one.table)]
    if not columns:
        raise unknown("table with vectors", wanted, tables)
    by_name = {one.name: one for one in columns}
    if "column" in address.own:
        return pick(f"column of vectors in table {shown(wanted)}:", address.own["column"], by_name)
    if len(columns) > 1:
        raise HoldfastError(
            f"table {shown(wanted)} has {counted(len(columns), 'column')} of vectors: add column=COLUMN to the search "
            f"(allowed: {', '.join(by_name)})"
        )
    return columns[0]


def _id(database: Database, address: Address, column: Column) -> str:
    names = [str(name) for (name,) in database.rows(NAMES, column.oid)]
    if "id" in address.own:
        return pick(f"column in table {shown(column.said)}:", address.own["id"], {name: name for name in names})
    keys = [str(name) for (name,) in database.rows(PRIMARY_KEY, column.oid)]
    if len(keys) != 1:
        held = f"a primary key of {counted(len(keys), 'column')}" if keys else "no primary key"
        raise HoldfastError(
            f"table {shown(column.said)} has {held}: add id=COLUMN to the search (allowed: {', '.join(names)})"
        )
    return keys[0]


def _operator(database: Database, address: Address, column: Column) -> tuple[str, bool]:
    """The operator of the distance, and whether an index sorts by it."""
    said = {operator: name for name, operator in DISTANCES.items()}
    indexed = [str(one) for (one,) in database.rows(INDEXED, column.oid, column.number) if one in said]
    if "distance" in address.own:
        operator = pick("distance", address.own["distance"], DISTANCES)
        return operator, operator in indexed
    if len(indexed) > 1:
        raise HoldfastError(
            f"column {shown(column.name)} of table {shown(column.said)} has indexes of several distances: add "
            f"distance=DISTANCE to the search (allowed: {', '.join(sorted(map(said.__getitem__, indexed)))})"
        )
    return (indexed[0], True) if indexed else (DISTANCES["l2"], False)
