"""What a host passes on to itself."""

from __future__ import annotations

import socket
import time

import pytest

from fedsim.emulation import loopback
from fedsim.emulation.dilation import network_need


@pytest.mark.slow
def test_it_is_the_rate_of_bytes_that_have_arrived() -> None:
    """In about the time asked for; any host on which this runs passes on more than 20 MB/s and less than a TB/s."""
    began = time.monotonic()
    rate = loopback.throughput(0.1)
    assert 0.1 <= time.monotonic() - began < 5.0
    assert 2e7 < rate < 1e12
    assert network_need([0.4 * rate], rate).dilation == pytest.approx(1.0)


@pytest.mark.slow
def test_a_slow_receiver_makes_it_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only lies in buffers does not count: with a pause of 20 ms for each frame, at most 50 frames a second."""
    slow = loopback._SINK.replace("    pass", "    import time; time.sleep(0.02)")
    assert slow != loopback._SINK
    monkeypatch.setattr(loopback, "_SINK", slow)
    monkeypatch.setattr(loopback, "_WARM", 2)
    assert loopback.throughput(0.1) < 50 * loopback.FRAME


@pytest.mark.slow
def test_a_process_that_ends_too_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a rate of nothing."""
    monkeypatch.setattr(loopback, "_SINK", "")
    with pytest.raises(ConnectionError, match="has ended too early"):
        loopback.throughput(0.05)


def test_only_the_own_connection_is_accepted() -> None:
    """Another process that connects meanwhile is sent away."""
    with (
        loopback._listening() as listener,
        socket.create_connection(listener.getsockname()) as stranger,
        socket.create_connection(listener.getsockname()) as near,
        loopback._accepted(listener, near) as far,
    ):
        assert far.getpeername() == near.getsockname()
        stranger.settimeout(5)
        assert stranger.recv(1) == b""
