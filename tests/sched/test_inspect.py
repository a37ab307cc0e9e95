"""Looking at goroutines: goroutines() and stack()."""

import functools
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import runtime
from programs import run
from runtime import (
    Chan,
    Goroutine,
    GoroutineInfo,
    Mutex,
    WaitGroup,
    _blocking,
    _inspect,
    current,
    go,
    goroutines,
    gosched,
    http,
    lock_os_thread,
    net,
    sleep,
    stack,
)
from waits import parked, settle, until

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
HERE = Path(__file__).name


def info(g: Goroutine[Any], stacks: bool = False) -> GoroutineInfo:
    (found,) = (i for i in goroutines(stacks=stacks) if i.goroutine is g)
    return found


def functions(g: Goroutine[Any]) -> list[str]:
    """The functions on g's stack, without modules, innermost first."""
    frames = info(g, stacks=True).stack
    assert frames is not None
    return [f.function.removeprefix(__name__ + ".") for f in frames]


@pytest.fixture(params=[1, 3])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


@pytest.fixture
def in_order(one_p: None) -> Iterator[None]:
    """What main has started begins when main waits or yields, and not before."""
    with runtime.nopreempt():
        yield


# --- states -------------------------------------------------------------------------------------


def test_goroutines_main_runs_and_is_the_caller() -> None:
    main = goroutines()[0]
    assert main.goroutine is current()
    assert (main.id, main.name, main.state) == (1, "main", "running")
    assert (main.wait_reason, main.wait_duration, main.spawned_at) == (None, None, None)
    assert (main.p, main.thread, main.locked) == (0, threading.get_ident(), False)
    assert main.stack is None


def unlocked() -> Mutex:
    mu = Mutex()
    mu.lock()
    return mu


def waiting_group() -> WaitGroup:
    wg = WaitGroup()
    wg.add()
    return wg


class Closing:
    """What the operation waits for, and how to end it."""

    def __init__(self, wait: Callable[[], object], end: Callable[[], object]) -> None:
        self.wait, self.end = wait, end


def make_wait(kind: str) -> Closing:
    ch: Chan[Any] = Chan()
    if kind == "recv":
        return Closing(ch.recv_ok, ch.close)
    if kind == "iteration":
        return Closing(lambda: list(ch), ch.close)
    if kind == "send":
        return Closing(lambda: ch.send(1), ch.recv)
    if kind == "mutex":
        mu = unlocked()
        return Closing(mu.lock, mu.unlock)
    if kind == "group":
        wg = waiting_group()
        return Closing(wg.wait, wg.done)
    if kind == "join":
        other = go(ch.recv_ok)
        return Closing(other.join, ch.close)
    if kind == "blocking":
        event = threading.Event()
        return Closing(lambda: runtime.blocking(event.wait), event.set)
    if kind == "future":
        future: Future[None] = Future()
        return Closing(lambda: runtime.wait_future(future), lambda: future.set_result(None))
    if kind == "accept":
        listener = net.listen("tcp", "127.0.0.1:0")

        def accept() -> None:
            with listener:
                listener.accept().close()

        return Closing(accept, lambda: socket.create_connection(listener.addr).close())
    raise AssertionError(kind)


REASONS = {
    "recv": "chan receive",
    "iteration": "chan receive",
    "send": "chan send",
    "mutex": "sync.Mutex.Lock",
    "group": "sync.WaitGroup.Wait",
    "join": "join",
    "blocking": "syscall",
    "future": "future",
    "accept": "IO wait",
}


@pytest.mark.parametrize("kind", REASONS)
def test_goroutines_waiting_has_the_reason(procs: int, kind: str) -> None:
    what = make_wait(kind)
    g = parked(go.named("waiter")(what.wait))
    i = info(g)
    assert (i.id, i.name, i.state, i.wait_reason) == (g.id, "waiter", "waiting", REASONS[kind])
    assert i.wait_duration is not None and i.wait_duration >= 0
    assert i.p is not None
    assert i.thread is not None
    what.end()
    g.join(timeout=30)
    assert g not in [i.goroutine for i in goroutines()]


def test_goroutines_http_handler_that_waits_for_the_body() -> None:
    def handler(w: http.ResponseWriter, r: http.Request) -> str:
        handlers.send(current())
        return r.body.read().decode()

    handlers: Chan[Goroutine[Any]] = Chan()
    server = http.Server(handler, addr="127.0.0.1:0")
    server.listen()
    serving = go(server.serve)
    with net.dial("tcp", str(server.addr), timeout=30) as client:
        client.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        i = info(parked(handlers.recv()), stacks=True)
        assert i.wait_reason == "IO wait"
        assert [f.function for f in i.stack or ()] == [f"{__name__}.{handler.__qualname__}"]
        client.write(b"ok")
        assert b"200 OK" in client.read(4096)
    server.close()
    serving.join(timeout=30)


def test_goroutines_sleeping_has_the_reason() -> None:
    g = parked(go(sleep, 3600))
    assert info(g).wait_reason == "sleep"
    g.cancel()


def test_goroutines_fresh_is_runnable_and_on_no_thread(in_order: None) -> None:
    def body() -> None: ...

    line = body.__code__.co_firstlineno + 3
    g = go(body)
    i = info(g, stacks=True)
    assert (i.state, i.wait_reason, i.wait_duration) == ("runnable", None, None)
    assert (i.p, i.thread, i.locked) == (0, None, False)
    assert i.spawned_at == (__file__, line, sys._getframe().f_code.co_qualname)
    assert i.frame is None
    g.join()


def test_goroutines_yielded_is_runnable_joining_waits(in_order: None) -> None:
    main = current()
    g = go(info, main)
    gosched()
    assert (g.join().state, g.join().wait_reason) == ("runnable", None)
    i = go(info, main).join()
    assert (i.state, i.wait_reason) == ("waiting", "join")


def test_goroutines_many_fresh_are_all_found(in_order: None) -> None:
    """More than fit into the ring of the P."""
    gs = {go(int) for _ in range(1000)}
    found = {i.goroutine for i in goroutines() if i.state == "runnable"}
    assert gs <= found
    for g in gs:
        g.join()


def test_goroutines_ready_is_runnable(in_order: None) -> None:
    ch: Chan[int] = Chan()
    gs = [parked(go(ch.recv)) for _ in range(3)]
    for n in range(3):
        ch.send(n)
    assert [info(g).state for g in gs] == ["runnable"] * 3
    assert [g.join() for g in gs] == [0, 1, 2]


class Spinner:
    """A goroutine that runs on another M than the main one's until it is released."""

    def __init__(self) -> None:
        self.release = False
        self.running = False
        self.g = go(self.spin, 2)
        while not self.running:  # this M is busy, so another one takes it
            pass

    def spin(self, depth: int) -> int:
        if depth:
            return self.spin(depth - 1)
        self.running = True
        while not self.release:
            pass
        return threading.get_ident()


def test_goroutines_running_on_another_m(in_order: None) -> None:
    runtime.gomaxprocs(2)
    spinner = Spinner()
    i = info(spinner.g, stacks=True)
    assert (i.state, i.wait_reason, i.wait_duration) == ("running", None, None)
    assert i.p not in (None, 0)
    assert [f.function for f in i.stack or ()] == [f"{__name__}.Spinner.spin"] * 3
    assert f"goroutine {i.id} [running]:\n{__name__}.Spinner.spin(...)\n" in stack(all=True)
    if FREE_THREADED:
        assert i.frame is None
    else:
        assert i.frame is not None and i.frame.f_code is Spinner.spin.__code__
    spinner.release = True
    assert spinner.g.join() == i.thread != threading.get_ident()


def test_goroutines_locked_to_its_thread(procs: int) -> None:
    ch: Chan[None] = Chan()

    def body() -> None:
        lock_os_thread()
        ch.recv()

    g = parked(go(body))
    assert info(g).locked
    assert f"goroutine {g.id} [chan receive, locked to thread]:\n" in stack(all=True)
    ch.send(None)
    g.join()
    lock_os_thread()
    assert goroutines()[0].locked
    assert stack().startswith("goroutine 1 [running, locked to thread]:\n")
    runtime.unlock_os_thread()


def test_goroutines_of_the_spare_p(in_order: None) -> None:
    ch: Chan[None] = Chan()
    spawned: list[Goroutine[bool]] = []
    here = threading.get_ident()

    def body() -> bool:
        if threading.get_ident() == here:
            return False  # the main thread was quicker
        ch.recv()
        return True

    while True:
        thread = threading.Thread(target=lambda: spawned.append(go(body)))
        thread.start()
        thread.join()
        g = spawned[-1]
        until(lambda g=g: g.state in ("waiting", "dead"))
        if g.state == "waiting":
            break
    assert info(g).p == 256
    ch.send(None)
    assert g.join()


def test_goroutines_come_in_the_order_of_their_ids_the_caller_first(in_order: None) -> None:
    gs = [go(int) for _ in range(50)]
    ids = [i.id for i in go(goroutines).join()]
    assert ids[0] > max(g.id for g in gs)
    assert ids[1:] == sorted(ids[1:])


def test_goroutines_number_is_num_goroutine(procs: int) -> None:
    ch: Chan[None] = Chan()
    gs = [parked(go(ch.recv_ok)) for _ in range(20)]
    settle()
    assert len(goroutines()) == runtime.num_goroutine()
    ch.close()
    for g in gs:
        g.join()


def test_goroutines_ten_thousand_parked(procs: int) -> None:
    ch: Chan[None] = Chan()

    def inner() -> None:
        ch.recv_ok()

    def outer() -> None:
        inner()

    gs = [go(outer) for _ in range(10_000)]
    for g in gs:
        parked(g)
    infos = {i.goroutine: i for i in goroutines(stacks=True)}
    assert len({i.id for i in infos.values()}) == len(infos)
    for g in gs:
        i = infos[g]
        assert (i.state, i.wait_reason) == ("waiting", "chan receive")
        assert [f.function.rpartition(".")[2] for f in i.stack or ()] == ["inner", "outer"]
    text = stack(all=True)
    found = [int(id) for id in re.findall(r"^goroutine (\d+) \[chan receive", text, re.M)]
    assert len(found) == len(set(found))
    assert {infos[g].id for g in gs} <= set(found)
    ch.close()
    for g in gs:
        g.join()


# --- handles ------------------------------------------------------------------------------------


def test_goroutines_give_a_handle_that_was_dropped() -> None:
    ch: Chan[int] = Chan()
    go.named("lost")(lambda: ch.recv() + 1)
    settle()
    (g,) = (i.goroutine for i in goroutines() if i.name == "lost")
    ch.send(41)
    assert g.join() == 42


def test_goroutines_do_not_keep_what_they_have_shown() -> None:
    class Local: ...

    ch: Chan[None] = Chan()

    def body() -> None:
        local = Local()
        refs.append(weakref.ref(local))
        ch.recv()

    refs: list[weakref.ref[Any]] = []
    g = parked(go(body))
    refs.append(weakref.ref(g))
    before = sys.getrefcount(body.__code__)
    for _ in range(10):
        goroutines(stacks=True)
        stack(all=True)
    after = sys.getrefcount(body.__code__)
    assert after == before
    ch.send(None)
    g.join()
    del g
    while FREE_THREADED and any(ref() for ref in refs):
        sleep(0.001)  # what another thread drops is left to the thread that made it
    assert [ref() for ref in refs] == [None, None]


# --- durations ----------------------------------------------------------------------------------


def test_wait_duration_grows_and_who_waited_first_has_waited_longer() -> None:
    ch: Chan[None] = Chan()

    def duration(g: Goroutine[None]) -> float:
        seconds = info(g).wait_duration
        assert seconds is not None
        return seconds

    first = parked(go(ch.recv))
    begin = duration(first)
    sleep(0.002)  # the clock goes by milliseconds
    assert duration(first) > begin
    second = parked(go(ch.recv))
    infos = {i.goroutine: i.wait_duration for i in goroutines()}
    assert infos[first] > infos[second] >= 0
    ch.send(None)
    ch.send(None)
    first.join()
    second.join()


def header(**changes: Any) -> str:
    i = info(current())._replace(**changes)
    return _inspect.describe(i).partition("\n")[0]


def test_stack_shows_minutes_from_one_on() -> None:
    waits = {"state": "waiting", "wait_reason": "IO wait"}
    assert header(**waits, wait_duration=59.9) == "goroutine 1 [IO wait]:"
    assert header(**waits, wait_duration=60.0) == "goroutine 1 [IO wait, 1 minutes]:"
    assert header(**waits, wait_duration=3599.0) == "goroutine 1 [IO wait, 59 minutes]:"
    assert (
        header(**waits, wait_duration=86400.0, locked=True)
        == "goroutine 1 [IO wait, 1440 minutes, locked to thread]:"
    )


# --- stacks -------------------------------------------------------------------------------------


def test_stack_of_the_caller() -> None:
    def inner() -> str:
        return stack()

    text = inner()
    lines = text.splitlines()
    assert lines[0] == "goroutine 1 [running]:"
    where = test_stack_of_the_caller
    assert lines[1] == f"{__name__}.{where.__qualname__}.<locals>.inner(...)"
    assert lines[2] == f"\t{__file__}:{inner.__code__.co_firstlineno + 1}"
    assert lines[3] == f"{__name__}.{where.__qualname__}(...)"
    assert lines[4] == f"\t{__file__}:{where.__code__.co_firstlineno + 4}"
    assert text.endswith("\n")


def own_stack() -> str:
    return stack()


def test_stack_of_a_goroutine_ends_with_who_created_it() -> None:
    line = test_stack_of_a_goroutine_ends_with_who_created_it.__code__.co_firstlineno + 2
    g = go(own_stack)
    text = g.join()
    assert text.startswith(f"goroutine {g.id} [running]:\n{__name__}.own_stack(...)\n")
    assert text.endswith(f"created by {sys._getframe().f_code.co_qualname}\n\t{__file__}:{line}\n")


def test_stack_shows_given_names_only() -> None:
    assert "goroutine 1 [running]" in stack()
    assert re.match(r"goroutine \d+ \[running\]:", go(stack).join())
    assert re.match(r"goroutine \d+ 'indexer' \[running\]:", go.named("indexer")(stack).join())
    g = go(stack)
    assert g.name == f"goroutine-{g.id}"
    assert re.match(r"goroutine \d+ \[running\]:", g.join())


def test_stack_all_begins_with_the_caller(procs: int) -> None:
    ch: Chan[None] = Chan()
    gs = [parked(go(ch.recv_ok)) for _ in range(5)]
    g = go(lambda: stack(all=True))
    parts = g.join().split("\n\n")
    assert parts[0].startswith(f"goroutine {g.id} [running]:\n")
    ids = [int(re.match(r"goroutine (\d+)", part)[1]) for part in parts]  # type: ignore[index]
    assert ids[1:] == sorted(ids[1:])
    assert {1, *(g.id for g in gs)} <= set(ids)
    ch.close()


def recursive(depth: int, then: Callable[[], object]) -> object:
    return recursive(depth - 1, then) if depth else then()


def test_stack_of_a_recursion(procs: int) -> None:
    ch: Chan[None] = Chan()
    g = parked(go(recursive, 30, ch.recv))
    assert functions(g) == ["recursive"] * 31
    ch.send(None)
    g.join()
    assert functions(current())[:2] == ["info", "functions"]


def test_stack_elides_the_middle_of_a_deep_recursion() -> None:
    ch: Chan[None] = Chan()
    g = parked(go(recursive, 300, ch.recv))
    assert functions(g) == ["recursive"] * 301
    (text,) = (t for t in stack(all=True).split("\n\n") if t.startswith(f"goroutine {g.id} "))
    assert text.count("recursive(...)") == 100
    assert text.splitlines()[101] == "...201 frames elided..."
    ch.send(None)
    g.join()


def test_stack_of_generators_and_c_functions_in_between(procs: int) -> None:
    ch: Chan[int] = Chan()

    def numbers() -> Iterator[int]:
        yield ch.recv()

    def doubled() -> Iterator[int]:
        for n in numbers():
            yield n * 2

    class Key:
        def __call__(self, n: int) -> int:
            return sum(doubled())

    g = parked(go(lambda: sorted([1], key=Key())))
    names = [name.rpartition(".")[2] for name in functions(g)]
    assert names == ["numbers", "doubled", "__call__", "<lambda>"]
    # And again, after it has run.
    ch.send(1)
    g.join()
    g = parked(go(lambda: sorted([1, 2], key=lambda n: n + ch.recv())))
    for n in range(2):
        names = [name.rpartition(".")[2] for name in functions(parked(g))]
        assert names == ["<lambda>", "<lambda>"]
        ch.send(n)
        gosched()
    assert g.join() == [1, 2]


def test_stack_of_what_has_no_python_frames_is_its_function(in_order: None) -> None:
    class Called:
        def __call__(self) -> None: ...

        def method(self) -> None: ...

        @classmethod
        def of_class(cls) -> None: ...

    ch: Chan[None] = Chan()
    cases: dict[Any, str] = {
        ch.recv: "runtime.Chan.recv",
        functools.partial(ch.send, None): "runtime.Chan.send",
        time_sleep: f"{__name__}.time_sleep",
        Called(): Called.__qualname__ + ".__call__",
        Called().method: Called.__qualname__ + ".method",
        Called.of_class: Called.__qualname__ + ".of_class",
        Called: "builtins.type.__call__",
        os.getpid: "posix.getpid",
        dict.fromkeys: "builtins.dict.fromkeys",
    }
    for fn, name in cases.items():
        g = go(fn)
        (frame,) = info(g, stacks=True).stack or ()
        assert frame.function.endswith(name)
        assert (frame.line > 0) == frame.file.endswith(HERE)
        assert f"{frame.function}(...)\n\t{frame.file}" in stack(all=True)
        g.cancel()
    g = parked(go(sleep, 3600))
    assert functions(g) == ["runtime.sleep"]
    assert "runtime.sleep(...)\n\t<built-in>\n" in stack(all=True)
    g.cancel()


def time_sleep() -> None: ...


def test_stack_of_code_without_a_module() -> None:
    ch: Chan[None] = Chan()
    scope: dict[str, Any] = {"ch": ch}
    exec("def f(): ch.recv()", scope)
    del scope["__builtins__"]
    g = parked(go(scope["f"]))
    assert functions(g) == ["f"]
    scope["__name__"] = 42
    assert functions(g) == ["f"]
    scope["__name__"] = "module"
    assert functions(g) == ["module.f"]
    ch.send(None)
    g.join()


def observed(look: Callable[[], Any]) -> Any:
    """What a plain thread sees while this goroutine waits for it, and all others, too."""
    seen: Chan[Any] = Chan()
    main = current()

    def thread() -> None:
        while main.state != "waiting":
            pass
        try:
            seen.send(look())
        except BaseException as e:
            seen.send(e)

    t = threading.Thread(target=thread)
    t.start()
    result = seen.recv()
    t.join()
    if isinstance(result, BaseException):
        raise result
    return result


def test_stack_of_one_that_parked_last() -> None:
    """It was not switched away from: the scheduler sleeps on its stack."""
    g = parked(go(sleep, 3600))
    names = observed(lambda: functions(main))[:2]
    assert names == ["observed", sys._getframe().f_code.co_qualname]
    # Now the last one to park is another goroutine, while main has been switched away from.
    ch: Chan[None] = Chan()

    def body() -> None:
        gosched()
        ch.recv()

    g2 = go(body)
    both = observed(lambda: (functions(main)[:2], functions(g2)))
    assert both == (names, [f"{sys._getframe().f_code.co_qualname}.<locals>.body"])
    ch.send(None)
    g2.join()
    g.cancel()


main = current()


def test_stack_of_plain_threads_that_wait() -> None:
    ch: Chan[None] = Chan()
    thread = threading.Thread(target=recursive, args=(2, ch.recv))

    def found() -> list[GoroutineInfo]:
        return [i for i in goroutines(stacks=True) if i.thread == thread.ident]

    thread.start()
    while not (infos := found()):
        gosched()
    (i,) = infos
    assert (i.state, i.wait_reason, i.p) == ("waiting", "chan receive", None)
    assert i.name == f"thread-{thread.ident}"
    assert [f.function for f in i.stack or ()][:3] == [f"{__name__}.recursive"] * 3
    assert f"goroutine {i.id} 'thread-{thread.ident}' [chan receive]:\n" in stack(all=True)
    ch.send(None)
    thread.join()
    assert not found()


def test_stack_of_a_plain_thread_that_calls() -> None:
    def look() -> tuple[list[GoroutineInfo], str, str]:
        return goroutines(), stack(), stack(all=True)

    results: list[tuple[list[GoroutineInfo], str, str]] = []
    thread = threading.Thread(target=lambda: results.append(look()))
    thread.start()
    thread.join()
    ((infos, own, every),) = results
    assert thread.ident not in [i.thread for i in infos]
    assert re.match(rf"goroutine \d+ 'thread-{thread.ident}' \[running\]:\n.*look", own)
    assert every.startswith(own + "\ngoroutine 1 [running]:\n")


def test_stack_leaves_out_idle_threads_of_the_pool() -> None:
    assert runtime.blocking(lambda: 42) == 42
    while not _blocking.idle_threads():
        gosched()
    assert observed(lambda: [i.name for i in goroutines() if i.p is None]) == []


def test_stack_in_a_signal_handler_while_nothing_runs() -> None:
    ch: Chan[tuple[str, str, list[GoroutineInfo]]] = Chan(1)

    def handler(signum: int, frame: object) -> None:
        ch.try_send((stack(), stack(all=True), goroutines()))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        idle, every, infos = ch.recv()
    finally:
        signal.signal(signal.SIGALRM, before)
    if infos[0].state == "waiting":  # the handler came when main had parked
        assert idle.startswith("goroutine 0 [idle]:\n")
    assert "goroutine 1 [" in every


# --- frames -------------------------------------------------------------------------------------


def test_frame_of_the_caller() -> None:
    assert goroutines()[0].frame is sys._getframe()
    assert go(lambda: goroutines()[0].frame.f_code.co_name).join() == "<lambda>"  # type: ignore[union-attr]


def test_frame_of_a_parked_goroutine(procs: int) -> None:
    ch: Chan[int] = Chan()

    def body(secret: int) -> int:
        return ch.recv()

    g = parked(go(recursive, 3, lambda: body(42)))
    i = info(g)
    frame = i.frame
    assert (frame is None) == FREE_THREADED
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        assert frame.f_code is not body.__code__ or frame.f_locals["secret"] == 42
        frame = frame.f_back
    assert names == ["body", "<lambda>", *["recursive"] * 4] or FREE_THREADED
    ch.send(1)
    g.join()
    assert i.frame is None


def test_frames_can_be_held_while_the_goroutine_goes_on() -> None:
    ch: Chan[int] = Chan()

    def numbers() -> Iterator[int]:
        while True:
            yield sorted([1], key=lambda _: ch.recv())[0]
            gosched()

    def body() -> int:
        total = 0
        for n in numbers():
            total += n
            if total > 100:
                return total
        return 0

    def walk(frame: Any) -> int:
        n = 0
        while frame is not None:
            n += frame.f_lineno > 0
            frame = frame.f_back
        return n

    g = go(body)
    held = []
    while not g.done():
        held += [i.frame for i in goroutines() if i.goroutine is g]
        assert all(walk(frame) < 100 for frame in held)
        ch.try_send(1)
        gosched()
    assert g.join() > 100
    assert all(walk(frame) < 100 for frame in held)


# --- processes ----------------------------------------------------------------------------------


def test_goroutines_of_a_forked_child() -> None:
    done = run(
        """
        import os
        from runtime import *

        ch = Chan()
        for _ in range(10):
            go(ch.recv)
        gosched()
        go(int)
        def child():
            pid = os.fork()
            if pid == 0:
                assert len(goroutines()) == num_goroutine() == 1
                g = go(ch.recv)
                while g.state != "waiting":
                    gosched()
                assert [i.goroutine for i in goroutines()] == [current(), g]
                assert stack(all=True).count("goroutine ") == 2
                os._exit(42)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        child()
        go(child).join()
        print(len(goroutines()) == num_goroutine())
        """
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert "Error" not in done.stderr


def test_goroutines_main_that_has_called_goexit() -> None:
    done = run(
        """
        from runtime import *

        def look(main):
            while main.state != "waiting":
                gosched()
            print([(i.id, i.state, i.wait_reason) for i in goroutines()][1:])
        go(look, current())
        goexit()
        """
    )
    assert done.stdout == "[(1, 'waiting', 'goexit')]\n"


CHURN = """
import faulthandler, random, sys, threading
faulthandler.enable()
import runtime
from runtime import *

gomaxprocs(PROCS)
runtime.excepthook = lambda g, e: None
stop = False
ch, buf, mu = Chan(), Chan(8), Mutex()

def recurse(n):
    return recurse(n - 1) if n else ch.recv()

def numbers(n):
    for i in range(n):
        gosched()
        yield ch.recv()

def key(x):
    gosched()
    return x

def body(k):
    if k == 0: recurse(random.randrange(30))
    elif k == 1: list(numbers(3))
    elif k == 2: sorted(range(5), key=key)
    elif k == 3: sleep(random.random() * 0.002)
    elif k == 4:
        with mu: gosched()
    elif k == 5: raise ValueError
    elif k == 6: go(body, 0).join()
    elif k == 7: buf.send(1); buf.recv()
    else: [].append([n for n in range(200)])

def churn():
    while not stop:
        gs = [go(body, random.randrange(9)) for _ in range(20)]
        for g in gs:
            while not g.done():
                ch.try_send(1)
                gosched()
            g.exception()

def walk(frame):
    while frame is not None:
        frame.f_lineno
        frame = frame.f_back

def look(rounds):
    held = []
    for n in range(rounds):
        infos = goroutines(stacks=n % 2 == 0)
        assert len({i.id for i in infos}) == len(infos)
        assert all(i.state in ("running", "runnable", "waiting") for i in infos)
        if n % 4 == 0:
            assert stack(all=True).count("goroutine ") > 1
        held = [i.frame for i in random.sample(infos, 5)] + held[:20]
        for frame in held:
            walk(frame)
        gosched()

churners = [go(churn) for _ in range(8)]
threads = [threading.Thread(target=look, args=(30,)) for _ in range(2)]
for t in threads:
    t.start()
lookers = [go(look, 30), go(look, 30)]
look(60)
for g in lookers:
    g.join()
while any(t.is_alive() for t in threads):
    sleep(0.001)
stop = True
for g in churners:
    g.join()
print("end", len(goroutines()))
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_goroutines_and_stacks_while_everything_changes(n: int) -> None:
    done = run(CHURN.replace("PROCS", str(n)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "end 1\n", "")
