"""Who is answered: this machine only, changes from the page only, and no answer that another page may read."""

import pytest

pytest.importorskip("starlette", reason="the explorer needs the extra serve")
pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")

from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from holdfast.explorer.guard import Guard, is_loopback

HOST = "http://127.0.0.1:8777"


def client(base: str = HOST, *, loopback: bool = True) -> TestClient:
    return TestClient(Guard(PlainTextResponse("hello"), loopback), base_url=base)


@pytest.mark.parametrize("host", ["127.0.0.1:8777", "localhost", "LOCALHOST:1", "[::1]:8777"])
def test_this_machine_is_answered(host: str) -> None:
    assert client().get("/", headers={"Host": host}).text == "hello"


def test_the_address_that_was_reached_is_answered() -> None:
    assert client("http://127.3.2.1:80").get("/").status_code == 200


HOSTS = [
    *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8777", "www.localhost"),
    *("", "8.8.8.8", "0.0.0.0", "127.3.2.1", "[::1", "a@localhost@b", "localhost:x"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_made_to_point_here_is_not(host: str) -> None:
    answer = client().get("/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (400, "Invalid host header")
    assert client(loopback=False).get("/", headers={"Host": host}).status_code == 200


ORIGINS = [
    *(None, "null", "", "http://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1", "http://["),
    f"{HOST}.evil.example",
]


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize("origin", ORIGINS)
def test_only_the_page_itself_may_change_something(origin: str | None, loopback: bool) -> None:
    answer = client(loopback=loopback).post("/", headers={} if origin is None else {"Origin": origin})
    assert answer.status_code == 403
    assert answer.json() == {"error": "only the page itself may ask for this"}


def test_the_page_itself_may() -> None:
    assert client().post("/", headers={"Origin": HOST}).status_code == 200


def test_no_host_and_no_origin_are_not_alike() -> None:
    assert client(loopback=False).post("/", headers={"Host": "", "Origin": ""}).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Host": "evil.example"}, {"Origin": "http://evil.example"}])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_is_sealed(method: str, headers: dict[str, str]) -> None:
    found = client().request(method, "/", headers=headers).headers
    policy = dict(part.strip().split(" ", 1) for part in found["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert found["x-content-type-options"] == "nosniff"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert found["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in found


def test_what_an_answer_says_of_caches_is_kept() -> None:
    app = Guard(PlainTextResponse("hello", headers={"Cache-Control": "private"}), loopback=True)
    assert TestClient(app, base_url=HOST).get("/").headers["cache-control"] == "private"


@given(st.text(max_size=12))
def test_no_name_but_localhost_is_this_machine_for_certain(name: str) -> None:
    assert not is_loopback(name) or name in ("localhost", "::1") or name.startswith("127.")
