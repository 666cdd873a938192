from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.executors import channel
from autotune.executors.channel import Channel, ClosedError, offer, pair, take


@given(st.lists(st.binary(max_size=5000), max_size=20))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    ours, theirs = pair()
    sender = threading.Thread(target=lambda: [ours.send_packed(message) for message in messages])
    sender.start()
    assert [theirs.receive() for _ in messages] == messages
    sender.join()
    ours.close()
    theirs.close()


def test_a_message_larger_than_any_buffer_arrives() -> None:
    ours, theirs = pair()
    large = bytes(8 << 20)
    sender = threading.Thread(target=ours.send_packed, args=(large,))
    sender.start()
    assert theirs.receive() == large
    sender.join()
    ours.close()
    theirs.close()


def test_nothing_in_time_is_none_and_half_a_message_is_nothing() -> None:
    a, b = socket.socketpair()
    end = Channel(b)
    assert end.receive(0.01) is None
    a.sendall((100).to_bytes(4, "big") + b"half")
    assert end.receive(0.01) is None
    a.close()
    with pytest.raises(ClosedError):
        end.receive()
    end.close()


def test_sending_to_one_who_is_gone_is_an_error() -> None:
    ours, theirs = pair()
    theirs.close()
    with pytest.raises(ClosedError):
        for _ in range(100):
            ours.send_packed(bytes(1 << 16))
    ours.close()


def test_a_port_is_taken_up_with_the_token_and_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of Windows, where a socket can't be inherited by number."""
    monkeypatch.setattr(channel.sys, "platform", "win32")
    offered = offer()
    workers: list[Channel] = []
    worker = threading.Thread(target=lambda: workers.append(take(offered.address)))
    worker.start()
    ours = offered.accepted()
    worker.join()
    ours.send_packed(b"hello")
    assert workers[0].receive() == b"hello"
    for end in (ours, workers[0]):
        end.close()

    offered = offer()
    impostor = take(offered.address.rpartition(":")[0] + ":guess")
    with pytest.raises(ClosedError):
        offered.accepted()
    impostor.close()
