"""fork: the child goes on with the goroutine that forked and nothing else; the parent does
not notice.
"""

import os
import subprocess
import sys
import textwrap

import pytest

import runtime
from programs import environment
from runtime import net

PRELUDE = """
import atexit, os, signal, sys, threading
from runtime import *
from runtime import net

PARENT = os.getpid()
# A child that hangs ends by a signal, and its status tells.
os.register_at_fork(after_in_child=lambda: signal.alarm(60))

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def works():
    ch = Chan()
    go(lambda: (sleep(0.001), ch.send(42)))
    assert ch.recv(timeout=30) == 42
    gs = [go(lambda i=i: (gosched(), i)[1]) for i in range(600)]
    assert [g.join() for g in gs] == list(range(600))
    with net.listen("tcp", "127.0.0.1:0") as listener:
        accepted = go(listener.accept)
        with net.dial("tcp", str(listener.addr), timeout=30) as client:
            client.write(b"x")
            with accepted.join(timeout=30) as server:
                assert server.read(1) == b"x"
    thread = threading.Thread(target=lambda: ch.send(go(lambda: 6).join()))
    thread.start()
    assert ch.recv() == 6
    thread.join()
    say("works in the", "parent" if os.getpid() == PARENT else "child")

def on_another_m(fn):
    thread = threading.Thread(target=lambda: go(fn).join())
    thread.start()
    thread.join()
"""

# Where body() runs, which forks.
PLACES = {
    "main": "body()",
    "goroutine": "go(body).join()",
    "goroutine that has parked": "go(lambda: (sleep(0.001), gosched(), body())).join()",
    "goroutine on another M": "on_another_m(body)",
    "goroutine on another M, main parked": """
back = Chan()
def body_and_back():
    body()
    if os.getpid() == PARENT:
        back.send(1)
threading.Thread(target=lambda: go(body_and_back)).start()
back.recv()
""",
    "thread": """
thread = threading.Thread(target=body)
thread.start()
thread.join()
""",
}
KINDS = ["main", "goroutine", "goroutine on another M", "thread"]
# The end of a thread's function is Python's affair, not ours.
GOROUTINES = ["goroutine", "goroutine on another M"]


def run(source: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the time limit is only a safety net."""
    env = environment()
    env.pop("PYTHONUNBUFFERED", None)
    warnings = ["-W", "ignore::DeprecationWarning", "-W", "ignore::ResourceWarning"]
    return subprocess.run(
        [sys.executable, *warnings, "-c", source],
        capture_output=True,
        text=True,
        timeout=110,
        env=env,
    )


def fork_in(place: str, child: str, *, before: str = "", after: str = "") -> tuple[str, str]:
    """Fork in a place; the child runs some statements and returns from there.

    The parent waits, then says the child's status, runs `after`, and sees to it that
    everything works.  Returns what both have printed.
    """
    indented = textwrap.indent(textwrap.dedent(child), " " * 8)
    done = run(
        f"""{PRELUDE}
def body():
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
{indented}
        return
    say("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

{textwrap.dedent(before)}
try:
{textwrap.indent(PLACES[place], "    ")}
finally:
    if os.getpid() != PARENT and {place != "main"}:
        say("RAN: main")
if os.getpid() == PARENT:
{textwrap.indent(textwrap.dedent(after), "    ")}
    works()
"""
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout, done.stderr


def in_child(fn) -> int:
    """Run fn in a forked child and return the child's exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- the child works ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_fork_child_and_parent_can_use_everything(place: str) -> None:
    child = """
        works()
        works()
        assert num_goroutine() == 1
    """
    out = "works in the child\nworks in the child\nstatus 0\nworks in the parent\n"
    assert fork_in(place, child) == (out, "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_after_all_has_been_used(place: str) -> None:
    """With a poller, timers, workers and other Ms that are in use already."""
    out = "works in the parent\nworks in the child\nstatus 0\nworks in the parent\n"
    assert fork_in(place, "works()", before="works()") == (out, "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_of_a_child_of_a_child(place: str) -> None:
    child = """
        works()
        def grandchild():
            works()
            pid = os.fork()
            if pid == 0:
                works()
                assert num_goroutine() == 1
                sys.exit(3)
            say("grandchild's child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            works()
            os._exit(2)
        if (pid := os.fork()) == 0:
            go(grandchild).join()
            os._exit(0)
        say("grandchild", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        works()
    """
    works = "works in the child\n"
    out = (
        f"{works * 3}grandchild's child 3\n{works}grandchild 2\n{works}status 0\n"
        "works in the parent\n"
    )
    assert fork_in(place, child) == (out, "")


def test_fork_in_many_goroutines() -> None:
    done = run(
        PRELUDE
        + """
def body(n):
    gosched()
    if (pid := os.fork()) == 0:
        sleep(0.001)
        sys.exit(go(lambda: n).join())
    gosched()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

print([g.join() for g in [go(body, n) for n in range(20)]])
"""
    )
    assert (done.stdout, done.stderr) == (f"{list(range(20))}\n", "")


def test_fork_pollers_do_not_pile_up() -> None:
    done = run(
        PRELUDE
        + """
from runtime import stats
def body(depth):
    sleep(0.001)
    works()
    targets = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(100)
               if os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")]
    say("pollers", sum("eventpoll" in target for target in targets), len(stats()["ps"]))
    if depth == 0:
        return
    if (pid := os.fork()) == 0:
        go(body, depth - 1).join()
        os._exit(0)
    os.waitpid(pid, 0)

body(3)
"""
    )
    pollers = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("pollers")]
    assert len(pollers) == 4, done.stderr
    # One for each P at most; some of them start by chance, and a P is there before its poller.
    # The stand-in for kqueue is made of three.
    each = 3 if os.environ.get("GOSCHED_NETPOLL") == "kqueue" else 1
    assert all(0 < int(n) <= each * int(ps) for n, ps in pollers), pollers


# --- the child is alone ---------------------------------------------------------------------------

# Goroutines and a thread in all kinds of waits.  In a child each says that it ran.
OTHERS = """
def other(name, wait):
    try:
        return wait()
    finally:
        if os.getpid() != PARENT:
            say("RAN:", name)

recv, send, full, aux_recv, thread_recv = Chan(), Chan(), Chan(1), Chan(), Chan()
full.send(0)
mu, wg = Mutex(), WaitGroup()
mu.lock(); wg.add(); over = False
listener = net.listen("tcp", "127.0.0.1:0")
accepted = go(listener.accept)
client = net.dial("tcp", str(listener.addr))
server = accepted.join()

def yields():
    while not over:
        gosched()
    return "yields"

never = go(recv.recv)
gs = [go(other, name, wait) for name, wait in {
    "recv": recv.recv,
    "recv with timeout": lambda: recv.recv(timeout=1000),
    "timeout": lambda: Chan().try_recv() or Chan().recv_ok(timeout=0.03),
    "iteration": lambda: next(iter(recv)),
    "send": lambda: send.send("sent"),
    "send to a full channel": lambda: full.send(1),
    "lock": mu.lock,
    "wait": wg.wait,
    "join": never.join,
    "sleep": lambda: sleep(0.03),
    "read": lambda: server.read(10),
    "accept": listener.accept,
    "yields": yields,
}.items()]
started = Chan()
on_another_m(lambda: None)
threading.Thread(target=lambda: [started.send(g) for g in [
    go(other, "aux recv", aux_recv.recv), go(other, "aux sleep", lambda: sleep(0.03))]]).start()
aux_gs = [started.recv(), started.recv()]
def thread():
    started.send(1)
    other("thread", thread_recv.recv)
thread = threading.Thread(target=thread)
thread.start()
started.recv()
for _ in range(5):
    gosched()
while aux_gs[0].state != "waiting":
    gosched()

only_fork = body
def body():
    global fresh
    fresh = go(other, "fresh", lambda: "fresh")
    only_fork()
"""
# What a child does that would wake them all.
WAKE_OTHERS = """
        alive = [g for g in (never, fresh, *gs, *aux_gs) if not g.done()]
        assert not recv.try_send("lost") and not aux_recv.try_send("lost")
        assert not thread_recv.try_send("lost")
        assert send.try_recv() == (None, False)
        assert full.try_recv() == (0, True) and full.try_recv() == (None, False)
        for ch in (recv, send, full, aux_recv, thread_recv, started):
            ch.close()
        mu.unlock()
        assert not mu.locked
        wg.done()
        sleep(0.05)         # past their timers
        for _ in range(200):
            gosched()
        assert num_goroutine() == 1
        for g in alive:
            assert not g.done()
            try:
                g.join(timeout=0.001)
            except TimeoutError:
                pass
            else:
                say("JOINED:", g)
"""
# The parent's own go on as if nothing had happened.
UNHARMED = """
    over = True
    assert fresh.join() == "fresh"
    for _ in range(4):
        recv.send("sent")
    assert send.recv() == "sent"
    assert (full.recv(), full.recv()) == (0, 1)
    mu.unlock(); wg.done()
    client.write(b"hello")
    net.dial("tcp", str(listener.addr)).close()
    aux_recv.send("sent"); thread_recv.send("sent")
    thread.join()
    for g in (never, *gs, *aux_gs):
        try:
            g.join()
        except TimeoutError:
            pass
"""


@pytest.mark.parametrize("place", PLACES)
def test_fork_others_never_run_in_the_child(place: str) -> None:
    out, err = fork_in(place, WAKE_OTHERS, before=OTHERS, after=UNHARMED)
    assert (out, err) == ("status 0\nworks in the parent\n", "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_others_do_not_end_with_the_child(place: str) -> None:
    """Nor do their finally blocks run when it ends without having touched them."""
    out, err = fork_in(place, "sleep(0.05)", before=OTHERS, after=UNHARMED)
    assert (out, err) == ("status 0\nworks in the parent\n", "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_can_do_what_the_parent_does_on_the_same_objects(place: str) -> None:
    """Channels and locks that others wait on in the parent are as good as new."""
    child = """
        mu.unlock()
        with mu:
            g = go(mu.lock)
            gosched()
        g.join()
        go(recv.send, "mine")
        assert recv.recv() == "mine"
        g = go(aux_recv.recv)
        aux_recv.send("mine")
        assert g.join() == "mine"
        wg.done()
        wg.wait()
        works()
    """
    out, err = fork_in(place, child, before=OTHERS, after=UNHARMED)
    assert (out, err) == ("works in the child\nstatus 0\nworks in the parent\n", "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_while_another_m_computes(place: str) -> None:
    before = """
        running, over = Chan(), threading.Event()
        def spin():
            running.send(1)
            while not over.is_set():
                gosched()
            if os.getpid() != PARENT:
                say("RAN: spin")
        threading.Thread(target=lambda: go(spin)).start()
        running.recv()
    """
    out, err = fork_in(place, "over.set(); works()", before=before, after="over.set()")
    assert (out, err) == ("works in the child\nstatus 0\nworks in the parent\n", "")


# --- what goes to the main goroutine goes to the one that forked ----------------------------------


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_gets_deadlock_error(place: str) -> None:
    child = """
        for wait in (Chan().recv, recv.recv, never.join, go(Chan().recv).join):
            try:
                wait()
            except DeadlockError:
                say("deadlock")
    """
    out, err = fork_in(place, child, before=OTHERS, after=UNHARMED)
    assert out == "deadlock\n" * 4 + "status 0\nworks in the parent\n"
    assert err.count("fatal error: all goroutines are asleep - deadlock!") == 4


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_gets_keyboard_interrupt(place: str) -> None:
    child = """
        try:
            go(lambda: (gosched(), os.kill(os.getpid(), signal.SIGINT), sleep(1000)))
            sleep(1000)
        except KeyboardInterrupt:
            say("interrupted while parked")
        try:
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                pass
        except KeyboardInterrupt:
            say("interrupted")
        works()
    """
    out, err = fork_in(place, child)
    assert err == ""
    assert out == (
        "interrupted while parked\ninterrupted\nworks in the child\nstatus 0\nworks in the parent\n"
    )


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_gets_system_exit_of_its_goroutines(place: str) -> None:
    child = """
        try:
            go(sys.exit, 7)
            sleep(1000)
        except SystemExit as e:
            say("exit", e.code)
        works()
    """
    out, err = fork_in(place, child)
    assert (out, err) == ("exit 7\nworks in the child\nstatus 0\nworks in the parent\n", "")


# --- the end of the child -------------------------------------------------------------------------

ENDING = """
def handler():
    go(lambda: None).join()
    sys.stdout.write("atexit\\n")       # stays in the buffer
    if os.getpid() != PARENT:
        sys.stdout.flush()
atexit.register(handler)
file = open(os.devnull, "w")
"""
# What the parent prints at last.
PARENT_ENDS = "works in the parent\natexit\n"


@pytest.mark.parametrize("place", [place for place in PLACES if place != "thread"])
def test_fork_child_returns_ends_like_a_program(place: str) -> None:
    child = 'sys.stdout.write("buffered\\n")'
    out, err = fork_in(place, child, before=ENDING)
    assert (out, err) == (f"buffered\natexit\nstatus 0\n{PARENT_ENDS}", "")


@pytest.mark.parametrize("place", ["main", *GOROUTINES])
def test_fork_child_flushes_what_it_wrote_last(place: str) -> None:
    child = """
        atexit.register(lambda: print("late"))
        print("buffered")
        sys.stderr.write("error")
    """
    out, err = fork_in(place, child)
    assert (out, err) == ("buffered\nlate\nstatus 0\nworks in the parent\n", "error")


@pytest.mark.parametrize("place", ["main", *GOROUTINES])
def test_fork_child_raises_ends_with_a_traceback(place: str) -> None:
    out, err = fork_in(place, "raise ValueError('of the child')", before=ENDING)
    assert out == f"atexit\nstatus 1\n{PARENT_ENDS}"
    assert err.count("Traceback") == 1
    assert "in body" in err
    assert err.endswith("ValueError: of the child\n")


@pytest.mark.parametrize("place", ["main", *GOROUTINES])
@pytest.mark.parametrize(
    ("code", "status", "text"),
    [("7", 7, ""), ("", 0, ""), ("0", 0, ""), ("'text'", 1, "text\n")],
    ids=["number", "nothing", "zero", "text"],
)
def test_fork_child_exits_with_its_code(place: str, code: str, status: int, text: str) -> None:
    out, err = fork_in(place, f"sys.exit({code})", before=ENDING)
    assert (out, err) == (f"atexit\nstatus {status}\n{PARENT_ENDS}", text)


@pytest.mark.parametrize("place", ["main", *GOROUTINES])
def test_fork_child_ends_with_its_main_goroutine(place: str) -> None:
    """Goroutines of its own that are parked, runnable or on another M end with it."""
    child = """
        for _ in range(1000):
            go(Chan().recv)
            go(sleep, 1000)
        gosched()
        for _ in range(100):
            go(gosched)
        running = Chan()
        def spin():
            running.send(1)
            while True:
                pass
        threading.Thread(target=lambda: go(spin)).start()
        running.recv()
        def waits():
            running.send(1)
            Chan().recv()
        threading.Thread(target=waits, daemon=True).start()
        running.recv()
    """
    out, err = fork_in(place, child, before=ENDING)
    assert (out, err) == (f"atexit\nstatus 0\n{PARENT_ENDS}", "")


@pytest.mark.parametrize("place", GOROUTINES)
def test_fork_child_in_nested_calls_runs_its_own_finally_blocks(place: str) -> None:
    before = """
        import contextlib
        @contextlib.contextmanager
        def block(name):
            try:
                yield
            finally:
                if os.getpid() != PARENT:
                    say("leaves", name)
        only_fork = body
        def body():
            with block("outer"):
                list(map(lambda _: only_fork(), [1]))
                if os.getpid() != PARENT:
                    raise SystemExit(3)
    """
    out, err = fork_in(place, "say('child')", before=before)
    assert (out, err) == ("child\nleaves outer\nstatus 3\nworks in the parent\n", "")


@pytest.mark.parametrize("place", KINDS)
def test_fork_child_that_calls_os_exit(place: str) -> None:
    out, err = fork_in(place, "print('lost'); os._exit(5)", before=ENDING)
    assert (out, err) == (f"status 5\n{PARENT_ENDS}", "")


def test_fork_child_of_a_thread_ends_with_the_thread() -> None:
    child = """
        works()
        go(Chan().recv)
        gosched()
    """
    out, err = fork_in("thread", child)
    assert (out, err) == ("works in the child\nstatus 0\nworks in the parent\n", "")


def test_fork_in_a_goroutine_on_a_thread_that_threading_knows() -> None:
    """threading has made an object for the M's thread, which becomes the main thread."""
    child = """
        assert threading.main_thread() is threading.current_thread()
        works()
        sys.exit(4)
    """
    out, err = fork_in(
        "goroutine on another M", child, before="on_another_m(threading.current_thread)"
    )
    assert (out, err) == ("works in the child\nstatus 4\nworks in the parent\n", "")


# --- what the child inherits ----------------------------------------------------------------------


def test_fork_child_runs_goroutines_and_timers() -> None:
    def child() -> None:
        ch = runtime.Chan()
        runtime.go(lambda: (runtime.sleep(0.001), ch.send(42)))
        assert ch.recv(timeout=30) == 42

    assert in_child(child) == 0
    child()


def test_fork_child_closing_connections_leaves_the_parents_open() -> None:
    with net.listen("tcp", "127.0.0.1:0") as listener:
        accepted = runtime.go(listener.accept)
        client = net.dial("tcp", str(listener.addr), timeout=30)
        server = accepted.join(timeout=30)
        answer = runtime.go(server.read, 10)  # registers with the poller
        runtime.gosched()

        def child() -> None:
            server.close()
            client.close()

        assert in_child(child) == 0
        client.write(b"still here")
        assert answer.join(timeout=30) == b"still here"
        client.close()
        server.close()


def test_fork_child_can_use_sockets() -> None:
    def child() -> None:
        with net.listen("tcp", "127.0.0.1:0") as listener:
            accepted = runtime.go(listener.accept)
            with net.dial("tcp", str(listener.addr), timeout=30) as client:
                client.write(b"x")
                with accepted.join(timeout=30) as server:
                    assert server.read(1) == b"x"

    child()  # the parent's poller is in use, too
    assert in_child(child) == 0


@pytest.mark.parametrize("place", PLACES)
def test_fork_child_waits_on_sockets_the_parent_has_waited_on(place: str) -> None:
    """Servers listen first and fork then: the child's poller must come to know the listener."""
    before = """
        listener = net.listen("tcp", "127.0.0.1:0")
        def talk():
            accepted = go(listener.accept)
            gosched()                           # it waits already
            client = net.dial("tcp", str(listener.addr), timeout=30)
            server = accepted.join(timeout=30)
            reads = go(server.read, 10)
            gosched()
            client.write(b"hello")
            assert reads.join(timeout=30) == b"hello"
            return client, server
        client, server = talk()
        server.set_read_deadline(1000)
    """
    child = """
        talk()
        # This connection's deadline belongs to the parent's timers, too.
        server.set_read_deadline(0.01)
        try:
            server.read(1)
        except TimeoutError:
            say("timeout")
        server.set_read_deadline(None)
        reads = go(server.read, 10)
        gosched()
        client.write(b"again")
        assert reads.join(timeout=30) == b"again"
        for closed in (listener, client, server):
            closed.close()
        try:
            Chan().recv()
        except DeadlockError:
            say("deadlock")
    """
    out, err = fork_in(place, child, before=before, after="talk()")
    assert out == "timeout\ndeadlock\nstatus 0\nworks in the parent\n"
    assert err.count("fatal error: all goroutines are asleep - deadlock!") == 1


HTTP = """
import gc
from runtime import http

mux = http.ServeMux()
server = http.Server(mux, "127.0.0.1:0")
server.listen()
addr = server.addr
mux.handle("/", lambda w, r: "hello")
serving = go(server.serve)

def ask(conn, path="/"):
    conn.write(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
    answer = b""
    while b"\\r\\n\\r\\n" not in answer:
        answer += conn.read() or sys.exit("the connection was closed")
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += conn.read() or sys.exit("the connection was closed")
    return body.decode()

idle = net.dial("tcp", addr, timeout=30)
assert ask(idle) == "hello"
"""


@pytest.mark.parametrize("place", KINDS)
@pytest.mark.parametrize("child", ["pass", "server.close()", "del server, serving, idle, mux"])
def test_fork_http_server_of_the_parent_is_not_touched(place: str, child: str) -> None:
    """Its connections have timers and registrations that the child's poller knows nothing of."""
    child = f"""
        global server, serving, idle, mux
        {child}
        gc.collect()
        works()
    """
    after = """
        assert ask(idle) == "hello"
        with net.dial("tcp", addr, timeout=30) as another:
            assert ask(another) == "hello"
        server.close()
        serving.join()
    """
    out, err = fork_in(place, child, before=HTTP, after=after)
    assert (out, err) == ("works in the child\nstatus 0\nworks in the parent\n", "")


def test_fork_in_a_handler_answers_once() -> None:
    done = run(
        f"""{PRELUDE}{HTTP}
@mux.handle_func("/fork")
def _(w, r):
    if (pid := os.fork()) == 0:
        works()
        sys.exit(5)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

say(ask(idle, "/fork"))
say(ask(idle))
server.close()
serving.join()
"""
    )
    assert (done.stdout, done.stderr) == ("works in the child\n5\nhello\n", "")
