"""Two hosts, each in a network namespace of its own, joined by one cable; one of them dies, the other goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_world import HERE, alone, assert_alike, order, result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="making network namespaces needs root and iproute2"
    ),
]
HOSTS = ("underlay-a", "underlay-b")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def cable() -> Iterator[None]:
    for host in HOSTS:
        ip("netns", "add", host)
    try:
        ip("link", "add", "cable-a", "netns", HOSTS[0], "type", "veth", "peer", "name", "cable-b", "netns", HOSTS[1])
        for host, end, address in zip(HOSTS, ("cable-a", "cable-b"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", host, "addr", "add", address, "dev", end)
            ip("-n", host, "link", "set", end, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


def launch(host: int, hosts: int, made: dict[str, object], port: int) -> subprocess.Popen[str]:
    """Start `torchrun` on a host, as the first or the second of `hosts`."""
    places = ["--nnodes", str(hosts), "--node-rank", "0" if hosts == 1 else str(host), "--nproc-per-node", "1"]
    meeting = ["--master-addr", "10.77.0.2" if hosts == 1 else "10.77.0.1", "--master-port", str(port)]
    command = [sys.executable, "-m", "torch.distributed.run", *places, *meeting]
    cable = f"cable-{'ab'[host]}"
    return subprocess.Popen(
        ["ip", "netns", "exec", HOSTS[host], *command, str(HERE / "world_worker.py"), json.dumps([made])],
        env={"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "GLOO_SOCKET_IFNAME": cable},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_one_host_dies_and_the_other_goes_on(cable: None, tmp_path: Path) -> None:
    often = {"train": {"checkpoint_seconds": 1e-9}}
    # The second host reads rows 4 to 7 of each step; it dies while it reads those of the seventh.
    killed = order(tmp_path, "killed", killed_at=8 * 6 + 5, **often)
    hosts = [launch(host, 2, killed, 29511) for host in (0, 1)]
    for host in hosts:
        assert host.wait(timeout=300) != 0
    left = sorted(path.name for path in Path(killed["folder"]).glob("step-*"))
    assert left, "no checkpoint was whole when the host died"
    again = order(tmp_path, "again", within="killed", **often)
    survivor = launch(1, 1, again, 29512)
    assert survivor.wait(timeout=300) == 0, survivor.stderr and survivor.stderr.read()
    assert any(line.startswith("resumed at step") for line in result(again)["said"])
    assert_alike(result(again)["log"], alone(order(tmp_path, "undisturbed", **often))["log"])
