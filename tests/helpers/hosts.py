"""Two hosts on this machine: network namespaces joined by a cable, where the machine allows that."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers.waiting import GUARD

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces with an interface ``cable`` each. The test is skipped where none can be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    names = tuple(f"holdfast-{os.getpid()}-{i}" for i in range(2))
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def torchrun_on(hosts: tuple[str, str], *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Python in a process on each host, all in one group."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--master-addr", ADDRESSES[0], "--master-port", "29577"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    begun = []
    for i, host in enumerate(hosts):
        words = ["ip", "netns", "exec", host, *command, "--node-rank", str(i), *arguments]
        begun.append(subprocess.Popen(words, env=environment, **streams))
    done = []
    for process in begun:
        out, err = process.communicate(timeout=GUARD)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done
