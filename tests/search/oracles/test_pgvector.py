"""A search in PostgreSQL: the ids of a naive search, one line for whatever cannot be searched, and no password told."""

import json
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.models.adapters import http
from holdfast.models.open import open_model
from holdfast.search.oracles import open_search, public
from holdfast.search.oracles.pgvector import open_pgvector
from holdfast.search.oracles.postgres import Database, parse_address
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.postgres import Postgres, serving_postgres
from tests.helpers.tiny import digits, embedder

SECRET = "s3cret"
RANDOM = np.random.default_rng(0)
ITEMS = RANDOM.standard_normal((60, 8)).astype(np.float32) * RANDOM.uniform(0.2, 5, (60, 1)).astype(np.float32)
GRID = RANDOM.integers(-1, 2, (60, 3)).astype(np.float32)
"""Many items of this are equally far."""
TWINS: dict[str, Callable[[Any, Any], Any]] = {
    "l2": lambda q, z: np.linalg.norm(z - q, axis=1),
    "cosine": lambda q, z: 1 - z @ q / np.linalg.norm(z, axis=1) / np.linalg.norm(q),
    "ip": lambda q, z: -(z @ q),
    "l1": lambda q, z: np.abs(z - q).sum(1),
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with serving_postgres() as server:
        server.fill("goods", ITEMS.tolist())
        yield server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITS", (0.0, 0.0))


def naive(distance: str, queries: Any, items: Any, k: int) -> list[list[str]]:
    answers = []
    for query in queries.astype(np.float64):
        far = TWINS[distance](query, items.astype(np.float64))
        answers.append([str(i) for i in sorted(range(len(items)), key=lambda i, far=far: (far[i], i))[:k]])
    return answers


def found(word: str, queries: Any = ITEMS[:4], k: int = 5) -> list[list[str]]:
    with open_pgvector(word) as search:
        return [[*one] for one in search(torch.from_numpy(queries), k)]


def fault(word: str, queries: Any = ITEMS[:1]) -> str:
    with pytest.raises(HoldfastError) as stop:
        found(word, queries)
    assert "\n" not in str(stop.value)
    return str(stop.value)


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", TWINS)
def test_it_answers_as_a_naive_search(postgres: Postgres, distance: str) -> None:
    queries = RANDOM.standard_normal((9, 8)).astype(np.float32)
    for k in (1, 7, 100):
        expected = naive(distance, queries, ITEMS, k)
        assert found(postgres.word(f"&table=goods&distance={distance}"), queries, k) == expected
    if distance == "l2":
        assert found(postgres.word("&table=goods"), queries, 100) == expected


@pytest.mark.parametrize("distance", ["l2", "ip", "l1"])
def test_equally_far_rows_come_by_id(postgres: Postgres, distance: str) -> None:
    postgres.fill(f"grid_{distance}", GRID.tolist())
    word = postgres.word(f"&table=grid_{distance}&distance={distance}")
    for k in (3, 20, 60):
        assert found(word, GRID[:5], k) == naive(distance, GRID[:5], GRID, k)


@pytest.mark.parametrize(
    ("distance", "method"), [("cosine", "hnsw"), ("ip", "hnsw"), ("l1", "hnsw"), ("l2", "ivfflat")]
)
def test_the_distance_is_that_of_the_index(postgres: Postgres, distance: str, method: str) -> None:
    table = f"indexed_{distance}"
    postgres.fill(table, ITEMS.tolist(), f"CREATE INDEX ON {table} USING {method} (embedding vector_{distance}_ops)")
    assert found(postgres.word(f"&table={table}")) == naive(distance, ITEMS[:4], ITEMS, 5)
    assert found(postgres.word(f"&table={table}&distance=l2")) == naive("l2", ITEMS[:4], ITEMS, 5)


def test_an_index_answers_with_as_many_as_it_is_told_to(postgres: Postgres) -> None:
    items = RANDOM.standard_normal((3000, 8)).astype(np.float32)
    postgres.fill("many", items.tolist(), "CREATE INDEX ON many USING hnsw (embedding vector_l2_ops)")
    postgres.admin.execute("ANALYZE many")
    exact = naive("l2", items[:4], items, 5)
    assert found(postgres.word("&table=many"), items[:4]) == exact
    assert [len(one) for one in found(postgres.word("&table=many"), items[:2], 60)] == [40, 40]
    wider = postgres.word("&table=many&options=-c%20hnsw.ef_search=100")
    assert [len(one) for one in found(wider, items[:2], 60)] == [60, 60]


def test_a_setting_that_the_extension_does_not_know_is_refused(postgres: Postgres) -> None:
    word = postgres.word("&table=goods&options=-c%20hnsw.ef_serch=100")
    assert "unknown setting of PostgreSQL 'hnsw.ef_serch'; did you mean 'hnsw.ef_search'? (allowed: hnsw." in fault(
        word
    )
    own = postgres.word("&table=goods&options=-c%20shop.tenant=7")
    assert found(own) == naive("l2", ITEMS[:4], ITEMS, 5)


def test_half_precision(postgres: Postgres) -> None:
    halves = ITEMS.astype(np.float16).astype(np.float32)
    postgres.fill("halves", halves.tolist(), kind="halfvec")
    postgres.admin.execute("CREATE INDEX ON halves USING hnsw (embedding halfvec_cosine_ops)")
    assert found(postgres.word("&table=halves"), halves[:4]) == naive("cosine", halves[:4], halves, 5)


def test_names_of_any_kind_and_ids_of_any_type(postgres: Postgres) -> None:
    postgres.admin.execute('CREATE SCHEMA "Stock"')
    for table in ('"Stock"."My goods"', '"Stock".goods'):
        postgres.admin.execute(
            f'CREATE TABLE {table} ("a""b" text PRIMARY KEY, "the %s vector" vector(2), other float)'
        )
        postgres.admin.execute(f"INSERT INTO {table} VALUES ('x y', '[1,0]', 3), ('z', '[0,1]', 4), ('none', NULL, 5)")
    queries = np.array([[0.1, 0.9]], np.float32)
    assert found(postgres.word("&table=Stock.My%20goods"), queries) == [["z", "x y"]]
    assert found(postgres.word("&table=Stock.goods&id=other"), queries) == [["4", "3"]]


def test_a_database_of_another_encoding_with_the_extension_in_a_schema_of_its_own(postgres: Postgres) -> None:
    psycopg = pytest.importorskip("psycopg")
    postgres.admin.execute("CREATE DATABASE apart ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(postgres.word(database="apart"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v ext.vector(2))")
        connection.execute("INSERT INTO t VALUES (1, '[1,0]'), (2, '[0,1]')")
    assert found(postgres.word("&table=t", "apart"), np.array([[0.1, 0.9]], np.float32)) == [["2", "1"]]


def test_a_view_takes_an_id(postgres: Postgres) -> None:
    postgres.admin.execute("CREATE VIEW few AS SELECT id + 100 AS number, embedding FROM goods WHERE id < 3")
    assert "'few' has no primary key: add id=COLUMN" in fault(postgres.word("&table=few"))
    assert sorted(found(postgres.word("&table=few&id=number"))[0]) == ["100", "101", "102"]


def test_a_model_makes_the_vectors(postgres: Postgres) -> None:
    model, pixels = embedder(), digits(40)
    images = pixels.read(torch.arange(40))[0]
    with torch.no_grad():
        items = model(images)
    postgres.fill("digits", items.tolist())
    for scheme in ("postgresql", "postgres"):
        word = postgres.word("&table=digits").replace("postgresql", scheme)
        with open_search(word, open_model(model), pixels, device=torch.device("cpu"), width=16) as search:
            assert [[*one] for one in search(images[:5], 4)] == naive("l2", items[:5].numpy(), items.numpy(), 4)
    until = time.monotonic() + 5
    while postgres.admin.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'holdfast'").fetchall():
        assert time.monotonic() < until, "a connection stays open"


def test_nothing_is_written(postgres: Postgres) -> None:
    with Database(parse_address(postgres.word())) as database:
        assert database.rows("SHOW transaction_read_only") == [("on",)]
        with pytest.raises(HoldfastError, match=r"refuses the search .*cannot execute CREATE TABLE in a read-only"):
            database.rows("CREATE TABLE x ()")


# ---- what cannot be searched -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("", "the search names no table: add table=TABLE to it (allowed: "),
        ("&table=good", "unknown table with vectors 'good'; did you mean 'goods'"),
        ("&table=Goods", "did you mean 'goods'"),
        ("&table=plain", "unknown table with vectors 'plain'"),
        ("&table=two", "'two' has 2 columns of vectors: add column=COLUMN to the search (allowed: front, back)"),
        ("&table=two&column=bac", "unknown column of vectors in table 'two': 'bac'; did you mean 'back'"),
        ("&table=two&column=shop", "unknown column of vectors in table 'two': 'shop'"),
        ("&table=two&column=back", "'two' has a primary key of 2 columns: add id=COLUMN to the search"),
        ("&table=two&column=back&id=itm", "unknown column in table 'two': 'itm'; did you mean 'item'"),
        ("&table=two&column=back&id=item&distance=cosin", "unknown distance 'cosin'; did you mean 'cosine'"),
        ("&table=two&column=front&id=item", "several distances: add distance=DISTANCE to the search (allowed: cosine,"),
        ("&table=two&column=back&id=item", "table 'two' holds no vectors"),
        ("&table=goods&column=embeding", "did you mean 'embedding'"),
        ("&table=nulls&id=label", "column 'label' of table 'nulls' is no id: it is null in a row"),
        ("&tabel=goods", "unknown parameter 'tabel'; did you mean 'table'? (allowed: table, column, id, distance, and"),
        ("&table=", "parameter 'table' of a search in PostgreSQL has no value"),
        ("&table=goods&table=many", "parameter 'table' of a search in PostgreSQL is given 2 times"),
        ("&table=goods&sslmode=perhaps", "cannot be opened (connection is bad: invalid sslmode value"),
    ],
)
def test_what_is_no_search(postgres: Postgres, end: str, message: str) -> None:
    postgres.admin.execute(
        "CREATE TABLE IF NOT EXISTS plain (id int PRIMARY KEY);"
        "CREATE TABLE IF NOT EXISTS nulls (id int PRIMARY KEY, label text, v vector(8));"
        "INSERT INTO nulls VALUES (1, NULL, '[1,2,3,4,5,6,7,8]') ON CONFLICT DO NOTHING;"
        "CREATE TABLE IF NOT EXISTS two (shop int, item int, front vector(8), back vector(8), "
        "PRIMARY KEY (shop, item));"
        "CREATE INDEX IF NOT EXISTS two_l2 ON two USING hnsw (front vector_l2_ops);"
        "CREATE INDEX IF NOT EXISTS two_cosine ON two USING hnsw (front vector_cosine_ops)"
    )
    assert message in fault(postgres.word(end))


def test_what_is_no_database(postgres: Postgres, tmp_path: Path) -> None:
    postgres.admin.execute("CREATE DATABASE bare")
    assert "postgresql:///bare has no pgvector: CREATE EXTENSION vector" in fault(postgres.word("&table=t", "bare"))
    assert 'database "shops" does not exist' in fault(postgres.word("&table=goods", "shops"))
    assert "cannot be opened" in fault(f"postgresql://postgres@/shop?host={tmp_path}&table=goods")
    assert "Connection refused" in fault("postgresql://postgres@127.0.0.1:1/shop?table=goods")


def test_dimensions_that_differ(postgres: Postgres) -> None:
    assert "vectors have 3 dimensions, those of table 'goods' 8" in fault(postgres.word("&table=goods"), GRID[:1])


def test_a_table_that_may_not_be_read(postgres: Postgres) -> None:
    postgres.admin.execute("CREATE ROLE guest LOGIN")
    said = fault(postgres.word("&table=goods", user="guest"))
    assert "refuses the search (InsufficientPrivilege: permission denied for table goods)" in said


def test_without_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'holdfast[pgvector]'" in fault("postgresql://localhost/shop?table=goods")


# ---- passwords -------------------------------------------------------------------------------------------------------


def test_a_password_is_used_and_not_told(postgres: Postgres) -> None:
    rules = postgres.folder / "pg_hba.conf"
    rules.write_text("local all keeper scram-sha-256\n" + rules.read_text())
    postgres.admin.execute(f"CREATE ROLE keeper LOGIN PASSWORD '{SECRET}@/'; GRANT SELECT ON goods TO keeper")
    postgres.admin.execute("SELECT pg_reload_conf()")
    word = postgres.word("&table=goods", user=f"keeper:{SECRET}%40%2F")
    assert found(word) == naive("l2", ITEMS[:4], ITEMS, 5)
    wrong = fault(word.replace(SECRET, f"{SECRET}2"))
    assert 'password authentication failed for user "keeper"' in wrong
    assert "no password supplied" in fault(postgres.word("&table=goods", user="keeper"))
    assert SECRET not in wrong + repr(parse_address(word)) + public(word)


@pytest.mark.parametrize(
    "word",
    [
        f"postgresql://u:{SECRET}@w@h/db?table=t",
        f"postgresql://u:{SECRET}/@h/db?table=t",
        f"postgresql://u:1/{SECRET}@h/db?table=t",
        f"postgresql://u:{SECRET}%zz@h/db?table=t",
        f"postgresql://u:{SECRET}",
        f"postgresql:u:{SECRET}@h/db",
        f"postgresql://h:1/db?table=t&password={SECRET}@",
        f"postgresql:///db?table=t&password=a&{SECRET}",
        f"postgresql+psycopg://u:{SECRET}@h/db?table=t&password={SECRET}",
        f"postgre://u:{SECRET}?@h/db",
        f"postgresql://u:{SECRET}@127.0.0.1:1/db?table=t&password={SECRET}",
    ],
)
def test_a_slip_in_an_address_tells_no_password(word: str) -> None:
    pytest.importorskip("psycopg")
    for model in (None, open_model(embedder())):
        with (
            pytest.raises(HoldfastError) as stop,
            open_search(word, model, digits(2), device=torch.device("cpu"), width=2),
        ):
            pass
        assert SECRET not in str(stop.value)


def test_what_results_keep_of_an_address() -> None:
    word = f"postgres://u:{SECRET}@a:1,b:2/db?sslpassword={SECRET}&table=s.t&host=%2Ftmp&user=u&options=-c%20x.y=1&id=n"
    assert public(word) == "postgresql://a:1,b:2/db?table=s.t&host=%2Ftmp&options=-c%20x.y%3D1&id=n"
    assert public("http://host/path@x?token=3") == "http://host/path@x"
    assert public("faiss:a@b") == "faiss:a@b"


# ---- a connection that is lost ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_a_lost_connection_is_opened_again(postgres: Postgres) -> None:
    with open_pgvector(postgres.word("&table=goods")) as search:
        answers = []
        for answer in search(torch.from_numpy(ITEMS[:4]), 5):
            answers.append([*answer])
            postgres.cut()
    assert answers == naive("l2", ITEMS[:4], ITEMS, 5)


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stays_away_is_one_line(postgres: Postgres) -> None:
    postgres.admin.execute("CREATE DATABASE fragile")
    with Database(parse_address(postgres.word(database="fragile"))) as database:
        assert database.rows("SELECT 1") == [(1,)]
        postgres.admin.execute("ALTER DATABASE fragile ALLOW_CONNECTIONS false")
        postgres.cut("fragile")
        with pytest.raises(
            HoldfastError, match=r"^postgresql:///fragile gives no answer in 3 tries \(.*\): is it runn"
        ):
            database.rows("SELECT 1")
        postgres.admin.execute("ALTER DATABASE fragile ALLOW_CONNECTIONS true")
        assert database.rows("SELECT 1") == [(1,)]


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_the_command_attacks_a_table_and_goes_on_after_a_failure(
    postgres: Postgres, tmp_path: Path, call: Call, refused: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "pgvector_table.py"))
    example["main"](["zoo:digits-none-r", postgres.word(), "shown", "--index", "l2"])
    word = postgres.word("&table=shown", user=f"postgres:{SECRET}")
    command: list[str | Path] = ["attack", "zoo:digits-none-r", "--search", word, "--max-queries", "4", "--eps", "0.2"]
    command += ["--budget", "8", "-k", "4", "--batch-size", "2"]
    status, printed, error = call(*command, "--out", tmp_path / "whole")
    assert (status, error) == (0, "")
    whole = (tmp_path / "whole" / "attack.json").read_text()
    name = json.loads(whole)["search"]
    assert name == f"postgresql:///shop?host={postgres.socket}&table=shown"
    assert SECRET not in whole + printed
    rows, asked = Database.rows, [0]

    def failing(database: Database, query: Any, *parameters: object) -> Any:
        asked[0] += 1
        if asked[0] == 15:
            raise HoldfastError("postgresql:///shop gives no answer in 3 tries")
        return rows(database, query, *parameters)

    monkeypatch.setattr(Database, "rows", failing)
    said = refused(*command, "--out", tmp_path / "cut")
    assert "gives no answer in 3 tries; " in said
    assert "repeat the command to go on" in said
    assert call(*command, "--out", tmp_path / "cut")[0] == 0
    assert (tmp_path / "cut" / "attack.json").read_text() == whole
