"""The socket of the page: a free port, one in use, and where a browser finds it."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the explorer needs the extra serve")

from holdfast.explorer.serving import address_of, listen
from holdfast.util.errors import HoldfastError


def test_a_free_port_is_found_and_one_in_use_is_refused(tmp_path: Path, refused: Any) -> None:
    with listen("127.0.0.1", 0) as listener:
        url, loopback = address_of(listener)
        port = int(url.rpartition(":")[2])
        assert (url, loopback) == (f"http://127.0.0.1:{port}", True)
        with pytest.raises(HoldfastError, match=f"port {port} is in use; give another with --port"):
            listen("127.0.0.1", port)
        assert f"port {port} is in use" in refused("explore", tmp_path, "--port", str(port))
    with listen("0.0.0.0", 0) as listener:
        assert not address_of(listener)[1]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "", "256.1.1.1", "x" * 300])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(HoldfastError, match="cannot listen on"):
        listen(host, 0)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(HoldfastError, match=rf"0 \(any free one\) to 65535, not {port}"):
        listen("127.0.0.1", port)
