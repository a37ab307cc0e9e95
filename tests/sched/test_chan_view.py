"""Receiver and Sender: one direction of a channel, with all that belongs to it and no more."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from runtime import Chan, ChanClosed, Receiver, Sender, go, recv, select, send
from waits import parked


class Ctx:
    def __init__(self, done: Any) -> None:
        self.done = lambda: done

    def err(self) -> Exception:
        return KeyError("ended")


def test_receiver_receives_in_every_way() -> None:
    ch: Chan[int] = Chan(5)
    for i in range(5):
        ch.send(i)
    r = ch.receiver()
    assert isinstance(r, Receiver)
    assert len(r) == 5
    assert r.recv() == 0
    assert r.recv_ok() == (1, True)
    assert r.try_recv() == (2, True)
    assert next(r) == 3
    ch.close()
    assert list(r) == [4]
    assert r.recv_ok() == (None, False)
    with pytest.raises(ChanClosed):
        r.recv()
    with pytest.raises(ChanClosed):
        r.try_recv()


def test_sender_sends_in_every_way_and_closes() -> None:
    ch: Chan[int] = Chan(2)
    s = ch.sender()
    assert isinstance(s, Sender)
    s.send(0)
    assert s.try_send(1)
    assert not s.try_send(2)
    assert len(s) == 2
    assert not s.closed
    s.close()
    assert s.closed
    assert ch.receiver().closed
    assert list(ch) == [0, 1]
    with pytest.raises(ChanClosed):
        s.send(3)
    with pytest.raises(ChanClosed):
        s.close()


def test_views_wait_as_the_channel_does() -> None:
    ch: Chan[int] = Chan()
    with pytest.raises(TimeoutError, match=r"Chan\.recv\(\)"):
        ch.receiver().recv(0)
    with pytest.raises(TimeoutError, match=r"Chan\.recv\(\)"):
        ch.receiver().recv_ok(timeout=0)
    with pytest.raises(TimeoutError, match=r"Chan\.send\(\)"):
        ch.sender().send(1, timeout=0)
    g = parked(go(ch.receiver().recv))
    ch.sender().send(1)
    assert g.join() == 1
    h = parked(go(list, ch.receiver()))
    ch.sender().send(2)
    ch.sender().close()
    assert h.join() == [2]


@pytest.mark.parametrize("name", ["send", "try_send", "close", "sender", "receiver"])
def test_receiver_can_only_receive(name: str) -> None:
    assert not hasattr(Chan().receiver(), name)


@pytest.mark.parametrize(
    "name", ["recv", "recv_ok", "try_recv", "__iter__", "__next__", "sender", "receiver"]
)
def test_sender_can_only_send(name: str) -> None:
    assert not hasattr(Chan().sender(), name)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: recv(c.sender()),
        lambda c: send(c.receiver(), 1),
        lambda c: list(c.sender()),
        Receiver,
        Sender,
    ],
)
def test_views_are_held_to_their_direction(misuse: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        misuse(Chan(1))


def test_select_takes_views() -> None:
    ch: Chan[int] = Chan(1)
    assert select(send(ch.sender(), 1), recv(ch.receiver())).index == 0
    assert select(send(ch.sender(), 1), recv(ch.receiver())) == (1, 1, True)


def test_views_of_one_channel_are_equal_and_equal_to_it() -> None:
    ch, other = Chan[int](), Chan[int]()
    for view in (Chan.receiver, Chan.sender):
        assert view(ch) == view(ch) == ch == view(ch)
        assert hash(view(ch)) == hash(ch)
        assert view(ch) != view(other)
        assert view(ch) != other
        assert view(ch) != 1
        with pytest.raises(TypeError):
            assert view(ch) < view(ch)  # type: ignore[operator]
    assert ch.receiver() != ch.sender()
    assert {ch: 1}[ch.receiver()] == 1  # type: ignore[index]


def test_views_show_their_channel() -> None:
    ch: Chan[int] = Chan(3)
    ch.send(1)
    assert repr(ch.receiver()) == f"<Receiver of {ch!r}>"
    assert repr(ch.sender()) == f"<Sender of {ch!r}>"
    assert ch.receiver().capacity == ch.sender().capacity == 3
    assert Chan().receiver()
    assert Chan().sender()


def test_views_keep_the_channel_alive_and_cycles_are_collected() -> None:
    ch: Chan[Any] = Chan(2)
    ref = weakref.ref(ch)
    r = ch.receiver()
    ch.send(ch.sender())
    ch.send(r)
    del ch
    gc.collect()
    assert ref() is not None
    del r
    gc.collect()
    assert ref() is None


def test_generic_aliases() -> None:
    assert Receiver[int].__origin__ is Receiver
    assert Sender[int].__args__ == (int,)


def test_context_may_give_a_receiver() -> None:
    done: Chan[None] = Chan()
    ctx = Ctx(done.receiver())
    ch: Chan[int] = Chan()
    g = parked(go(ch.recv, ctx=ctx))
    done.close()
    with pytest.raises(KeyError):
        g.join()
    with pytest.raises(KeyError):
        ch.recv(ctx=ctx)
    with pytest.raises(TypeError, match=r"ctx.done\(\) must be a Chan, a Receiver or None"):
        ch.recv(ctx=Ctx(done.sender()))
