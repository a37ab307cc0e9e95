"""Failures are never lost: join() raises them, or runtime.excepthook reports them."""

from collections.abc import Iterator
from typing import Any

import pytest

import runtime
from programs import run
from runtime import Chan, Goroutine, current, go
from waits import settle, until


class Failure(Exception):
    pass


def fail(*args: Any) -> None:
    raise Failure(*args)


Reports = list[tuple[Goroutine[Any], BaseException]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reports]:
    """What runtime.excepthook was called with."""
    calls: Reports = []
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: calls.append((g, e)))
    yield calls


# --- when a failure is reported -------------------------------------------------------------------


def test_failure_without_handle_is_reported_at_once(reports: Reports) -> None:
    go.named("orphan")(fail, 1)
    until(lambda: reports)
    [(g, error)] = reports
    assert g.name == "orphan"
    assert g.state == "dead" or g.state == "running"
    assert isinstance(error, Failure)
    assert error.args == (1,)
    assert g.spawned_at is not None
    assert g.spawned_at[0] == __file__


def test_failure_with_handle_is_reported_when_the_handle_goes(reports: Reports) -> None:
    g = go(fail)
    until(g.done)
    assert reports == []
    del g
    until(lambda: reports)  # where it has run may have been about to leave it
    assert len(reports) == 1


def test_failure_in_a_list_of_handles_is_reported_when_the_list_goes(reports: Reports) -> None:
    gs = [go(fail, i) for i in range(10)]
    until(lambda: all(g.done() for g in gs))
    gs.clear()
    until(lambda: len(reports) == 10)
    assert sorted(e.args for _, e in reports) == [(i,) for i in range(10)]


@pytest.mark.parametrize("ask", ["join", "exception", "join in a goroutine"])
def test_failure_that_was_asked_for_is_not_reported(ask: str, reports: Reports) -> None:
    g = go(fail)
    if ask == "join":
        with pytest.raises(Failure):
            g.join()
    elif ask == "exception":
        until(g.done)
        assert isinstance(g.exception(), Failure)
    else:
        with pytest.raises(Failure):
            go(g.join).join()
    del g
    settle()
    assert reports == []


@pytest.mark.usefixtures("one_p")
def test_failure_asked_by_a_joiner_that_gave_up_is_reported(reports: Reports) -> None:
    ch = Chan()

    def wait_and_fail() -> None:
        ch.recv()
        raise Failure

    g = go(wait_and_fail)
    with pytest.raises(TimeoutError):
        g.join(0)
    del g
    ch.send(None)
    settle()
    assert len(reports) == 1


def test_failure_asking_done_only_is_reported(reports: Reports) -> None:
    g = go(fail)
    until(g.done)
    del g
    until(lambda: reports)
    assert len(reports) == 1


@pytest.mark.usefixtures("one_p")
def test_failure_of_a_joiner_is_its_own(reports: Reports) -> None:
    g = go(fail)
    go(g.join)
    settle()
    [(reported, _)] = reports
    assert reported is not g


def test_failure_in_a_cycle_is_reported_by_the_collector(reports: Reports) -> None:
    import gc

    class Node:
        pass

    node = Node()
    node.g = go(fail)  # type: ignore[attr-defined]
    node.self = node  # type: ignore[attr-defined]
    until(node.g.done)  # type: ignore[attr-defined]
    del node
    assert reports == []
    until(lambda: gc.collect() is not None and reports)
    assert len(reports) == 1


def test_failure_in_the_frame_that_holds_the_handle_is_reported(reports: Reports) -> None:
    import gc

    def body() -> None:
        me = current()
        assert me
        raise Failure

    go(body)
    settle()
    until(lambda: gc.collect() is not None and reports)
    assert len(reports) == 1


def test_goexit_is_not_a_failure(reports: Reports) -> None:
    go(runtime.goexit)
    settle()
    assert reports == []


def test_hook_may_keep_the_goroutine(reports: Reports) -> None:
    go.named("kept")(fail, "x")
    until(lambda: reports)
    [(g, error)] = reports
    until(g.done)
    assert g.exception() is error
    with pytest.raises(Failure):
        g.join()
    reports.clear()
    del g, error


@pytest.mark.usefixtures("one_p")
def test_hook_may_park(monkeypatch: pytest.MonkeyPatch) -> None:
    ch: Chan[Any] = Chan()
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: ch.send((g.name, e.args)))
    go.named("a")(fail, 1)
    go.named("b")(fail, 2)
    assert sorted([ch.recv(), ch.recv()]) == [("a", (1,)), ("b", (2,))]
    settle()


def test_hook_may_spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ch: Chan[Any] = Chan(1)
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: go(ch.send, e.args) and None)
    go(fail, 5)
    assert ch.recv() == (5,)


@pytest.mark.usefixtures("one_p")
def test_hook_runs_with_the_goroutine_current(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: seen.append(current() is g))
    go(fail)
    settle()
    assert seen == [True]


def test_hook_called_by_hand_prints_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    g = go.named("by hand")(fail, "boom")
    until(g.done)
    error = g.exception()
    assert error is not None
    runtime.excepthook(g, error)
    err = capsys.readouterr().err
    assert f"goroutine {g.id} [by hand] failed; started at " in err
    assert "Failure: boom" in err


# --- what the program's user sees -----------------------------------------------------------------


def test_report_has_name_place_and_traceback() -> None:
    done = run(
        """
        from runtime import go, gosched, num_goroutine

        def handler():
            raise ValueError("boom")

        def serve():
            go.named("handler")(handler)        # line 8

        serve()
        while num_goroutine() > 1:
            gosched()
        print("main goes on")
        """
    )
    assert done.returncode == 0
    assert done.stdout == "main goes on\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("goroutine ")
    assert lines[0].endswith('[handler] failed; started at "<string>", line 8, in serve')
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: boom"


def test_report_without_stderr_is_silent() -> None:
    done = run(
        """
        import sys
        from runtime import go, gosched, num_goroutine

        sys.stderr = None
        go(lambda: 1 / 0)
        while num_goroutine() > 1:
            gosched()
        print("ok")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_hook_that_raises_is_reported_and_ignored() -> None:
    done = run(
        """
        import runtime
        from runtime import go, gosched, num_goroutine

        def hook(g, exc):
            raise KeyError("hook")

        runtime.excepthook = hook
        go(lambda: 1 / 0)
        while num_goroutine() > 1:
            gosched()
        print(go(lambda: "ok").join())
        """
    )
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert "KeyError: 'hook'" in done.stderr


def test_hook_that_raises_system_exit_is_not_fatal() -> None:
    done = run(
        """
        import runtime, sys
        from runtime import go, gosched, num_goroutine

        runtime.excepthook = lambda g, exc: sys.exit(9)
        go(lambda: 1 / 0)
        while num_goroutine() > 1:
            gosched()
        print(go(lambda: "ok").join())
        """
    )
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_exception_whose_str_raises_is_reported() -> None:
    done = run(
        """
        from runtime import go, gosched, num_goroutine

        class Bad(Exception):
            def __str__(self):
                raise ValueError

        def fail():
            raise Bad

        go(fail)
        while num_goroutine() > 1:
            gosched()
        print("ok")
        """
    )
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert "Bad" in done.stderr


# --- SystemExit and KeyboardInterrupt -------------------------------------------------------------

BLOCKED_MAIN = {
    "recv": "Chan().recv()",
    "recv timeout": "Chan().recv(timeout=1000)",
    "send": "Chan().send(1)",
    "sleep": "sleep(1000)",
    "join": "go(Chan().recv).join()",
    "wait": "wg = WaitGroup(); wg.add(); wg.wait()",
    "lock": "mu = Mutex(); mu.lock(); mu.lock()",
    "goexit": "goexit()",
    "yields": "while True: gosched()",
    "busy later": "gosched()\nwhile True: pass",
    "iteration": "for _ in Chan(): pass",
}


@pytest.mark.parametrize("main", BLOCKED_MAIN.values(), ids=BLOCKED_MAIN.keys())
def test_sys_exit_in_a_goroutine_ends_the_program(main: str) -> None:
    done = run(
        f"import sys\nfrom runtime import *\ngo(sys.exit, 3)\n{main}\nprint('not reached')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_sys_exit_text_is_printed() -> None:
    done = run("import sys\nfrom runtime import *\ngo(sys.exit, 'bye')\nsleep(1000)\n")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "bye\n")


def test_sys_exit_after_handing_main_a_value_still_ends_the_program() -> None:
    done = run(
        """
        import sys
        from runtime import *

        ch = Chan()

        def body():
            ch.send("value")
            sys.exit(3)

        go(body)
        print(ch.recv(), flush=True)
        while True:
            pass
        """
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_sys_exit_reaches_join_of_main_once() -> None:
    done = run(
        """
        import sys
        from runtime import *

        def body():
            while main.wait_reason != "join":
                gosched()
            sys.exit(3)

        main = current()
        g = go(body)
        try:
            g.join()
        except SystemExit as e:
            while not g.done():
                gosched()
            print(e.code, e is g.exception())
        gosched()
        sleep(0.001)
        print("goes on")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 True\ngoes on\n", "")


def test_keyboard_interrupt_raised_in_a_goroutine_reaches_main() -> None:
    done = run(
        """
        from runtime import *

        def body():
            while main.wait_reason != "chan receive":
                gosched()
            raise KeyboardInterrupt("from body")

        main = current()
        g = go(body)
        try:
            Chan().recv()
        except KeyboardInterrupt as e:
            while not g.done():
                gosched()
            print(repr(e), e is g.exception())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "KeyboardInterrupt('from body') True\n",
        "",
    )


def test_sys_exit_in_a_goroutine_of_a_thread_ends_the_program() -> None:
    done = run(
        """
        import sys, threading
        from runtime import *

        threading.Thread(target=lambda: go(sys.exit, 4)).start()
        Chan().recv()
        """
    )
    assert (done.returncode, done.stderr) == (4, "")


def test_sys_exit_in_a_goroutine_of_a_thread_interrupts_busy_main() -> None:
    done = run(
        """
        import sys, threading
        from runtime import *

        threading.Thread(target=lambda: go(sys.exit, 4)).start()
        while True:
            pass
        """
    )
    assert (done.returncode, done.stderr) == (4, "")


def test_system_exit_caught_in_the_goroutine_is_its_own() -> None:
    done = run(
        """
        import sys
        from runtime import *

        def body():
            try:
                sys.exit(3)
            except SystemExit:
                return "caught"

        print(go(body).join())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "caught\n", "")
