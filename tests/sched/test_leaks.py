"""runtime.testing.leak_check(): who is left behind, and who is only about to end."""

from collections.abc import Iterator
from typing import Any

import pytest

import runtime
from runtime import Chan, WaitGroup, blocking, go, gosched, net, sleep, testing
from runtime.testing import LeakError, leak_check
from waits import until


@pytest.fixture(params=[1, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


@pytest.fixture
def gate() -> Iterator[Chan[None]]:
    """What leaks waits for this."""
    ch: Chan[None] = Chan()
    before = runtime.num_goroutine()
    yield ch
    ch.close()
    until(lambda: runtime.num_goroutine() <= before)


def leave(ch: Chan[None]) -> None:
    ch.recv_ok()


def test_leak_is_named_with_its_site_reason_and_stack(gate: Chan[None], procs: int) -> None:
    with pytest.raises(LeakError) as info, leak_check():
        go.named("forgotten")(leave, gate)
    text = str(info.value)
    assert "a goroutine was left behind" in text
    assert "'forgotten' [chan receive]" in text
    assert "leave(...)" in text and "created by test_leak_is_named" in text
    (g,) = info.value.goroutines
    assert g.name == "forgotten" and g.wait_reason == "chan receive"
    assert isinstance(info.value, AssertionError)


def test_leak_names_all_and_none_that_was_there_before(gate: Chan[None]) -> None:
    go.named("old")(leave, gate)
    with pytest.raises(LeakError, match="2 goroutines were left behind") as info, leak_check():
        go.named("a")(leave, gate)
        go.named("b")(sleep, 1000)
    assert [g.name for g in info.value.goroutines] == ["a", "b"]
    info.value.goroutines[1].goroutine.cancel()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are about to end may take their time: the machine may be busy."""
    monkeypatch.setattr("runtime._leaks.GRACE", 60.0)


@pytest.mark.usefixtures("patient")
def test_leak_check_passes_when_all_have_ended(procs: int) -> None:
    with leak_check():
        wg = WaitGroup()
        for _ in range(100):
            wg.add()
            go(wg.done)
        wg.wait()


@pytest.mark.usefixtures("patient")
def test_leak_check_lets_those_about_to_end_do_so(procs: int) -> None:
    chs = [Chan[None]() for _ in range(50)]

    def relay(i: int) -> None:
        chs[i].recv()
        for _ in range(5):
            gosched()
        if i + 1 < len(chs):
            chs[i + 1].send(None)

    for _ in range(20):
        with leak_check():
            for i in range(len(chs)):
                go(relay, i)
            gosched()
            chs[0].send(None)


def test_leak_check_gives_up_on_one_that_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    over: list[bool] = []

    def busy() -> None:
        while not over:
            gosched()

    monkeypatch.setattr("runtime._leaks.GRACE", 0.01)
    with pytest.raises(LeakError, match=r"busy\(\.\.\.\)"), leak_check():
        g = go(busy)
    over.append(True)
    g.join()


def test_leak_check_does_not_mask_an_exception(gate: Chan[None]) -> None:
    with pytest.raises(KeyError), leak_check():
        go(leave, gate)
        raise KeyError


def test_leak_check_of_a_function(gate: Chan[None]) -> None:
    assert leak_check(divmod, 17, 5) == (3, 2)
    with pytest.raises(LeakError):
        leak_check(go, leave, gate)


def test_leak_check_as_a_decorator(gate: Chan[None]) -> None:
    @leak_check()
    def test(x: int, leaks: bool) -> int:
        """Docs."""
        if leaks:
            go(leave, gate)
        return x + 1

    for x in range(3):
        assert test(x, False) == x + 1
        with pytest.raises(LeakError):
            test(x, True)
    assert test.__name__ == "test" and test.__doc__ == "Docs."


def test_leak_check_can_be_nested(gate: Chan[None]) -> None:
    def inner() -> None:
        with leak_check():
            go(leave, gate)

    with pytest.raises(LeakError, match="a goroutine was"), leak_check(), pytest.raises(LeakError):
        inner()


def test_leak_check_in_plain_threads_and_goroutines(gate: Chan[None]) -> None:
    def leaks() -> str:
        with pytest.raises(LeakError) as info, leak_check():
            go.named("forgotten")(leave, gate)
        return str(info.value)

    assert "'forgotten'" in blocking(leaks)
    assert "'forgotten'" in go(leaks).join()
    blocking(lambda: leak_check(lambda: None))


def test_leak_check_in_a_bubble() -> None:
    def body() -> None:
        ch: Chan[Any] = Chan()
        with pytest.raises(LeakError, match=r"'forgotten' \[sleep, bubble"), leak_check():
            g = go.named("forgotten")(sleep, 10)
        with leak_check():
            go(ch.recv)
            ch.send(1)
        g.join()

    testing.bubble(body)


def test_leak_check_finds_what_waits_for_io() -> None:
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with pytest.raises(LeakError, match=r"\[IO wait\]"), leak_check():
            g = go(listener.accept)
        g.cancel()
        until(g.done)
