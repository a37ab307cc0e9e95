"""The program ends with its main goroutine: promptly, silently, with the right code.

Handlers of atexit may use the runtime, all of it, whenever they were registered.
"""

import textwrap
from pathlib import Path

import pytest

from programs import run

DEV = ["-X", "dev", "-W", "error"]

SITUATIONS = {
    "nothing else": "",
    "fresh goroutines": "for _ in range(1000): go(len, 'never')",
    "thousands parked": """
ch = Chan()
for _ in range(5000): go(ch.recv)
for _ in range(3): gosched()
""",
    "sleeping": """
for _ in range(100): go(sleep, 1000)
for _ in range(3): gosched()
""",
    "parked deep in C and generators": """
ch = Chan()
def gen():
    with mu:
        try:
            yield ch.recv()
        finally:
            ch.recv()
mu = Mutex()
for _ in range(100):
    go(sorted, range(3), key=lambda x: ch.recv())
    go(list, gen())
for _ in range(3): gosched()
""",
    "parked in an exception handler": """
ch = Chan()
def body():
    try:
        1 / 0
    except ZeroDivisionError:
        try:
            ch.recv()
        finally:
            print("never")
for _ in range(10): go(body)
for _ in range(3): gosched()
""",
    "aux M idle": """
t = threading.Thread(target=lambda: go(len, "x"))
t.start(); t.join()
""",
    "aux M with parked goroutines": """
ch = Chan(); up = Chan()
def spawner():
    for _ in range(1000): go(ch.recv)
    go(up.send, 1)
threading.Thread(target=spawner).start()
up.recv()
""",
    "aux M runs Python for ever": """
up = Chan()
def spin():
    up.send(1)
    while True: pass
threading.Thread(target=lambda: go(spin)).start()
up.recv()
""",
    "aux M in a system call": """
up = Chan()
def call():
    up.send(1)
    r, w = os.pipe()
    os.read(r, 1)
threading.Thread(target=lambda: go(call)).start()
up.recv()
""",
    "aux M spawns and yields for ever": """
up = Chan()
def spin():
    up.send(1)
    while True:
        go(len, "x")
        gosched()
threading.Thread(target=lambda: go(spin)).start()
up.recv()
""",
    "aux M with a goroutine that cannot be ended": """
up = Chan()
def spin():
    up.send(1)
    while True:
        try:
            while True: pass
        except BaseException: pass
threading.Thread(target=lambda: go(spin)).start()
up.recv()
""",
    "aux M at the buffer of standard output": """
up = Chan()
def flush():
    up.send(1)
    while True: sys.stdout.flush()
threading.Thread(target=lambda: go(flush)).start()
up.recv()
""",
    "aux M waits for a lock of threading": """
up = Chan()
def waits():
    lock = threading.Lock()
    lock.acquire()
    up.send(1)
    lock.acquire()
threading.Thread(target=lambda: go(waits)).start()
up.recv()
""",
    "aux M and main M at work together": """
ping, pong = Chan(), Chan()
def serves():
    while True:
        ping.recv(); pong.send(1)
def plays():
    while True:
        ping.send(1); pong.recv()
threading.Thread(target=lambda: go(serves)).start()
go(plays)
for _ in range(100): gosched()
""",
    "daemon thread and aux M at work together": """
ping, pong = Chan(), Chan()
def serves():
    while True:
        ping.recv(); pong.send(1)
def plays():
    while True:
        ping.send(1); pong.recv()
threading.Thread(target=lambda: go(serves)).start()
threading.Thread(target=plays, daemon=True).start()
for _ in range(100): gosched()
""",
    "daemon thread spawns for ever": """
up = Chan()
def spawns():
    up.send(1)
    while True:
        go(len, "").join()
threading.Thread(target=spawns, daemon=True).start()
up.recv()
""",
    "HTTP server with a request in a handler": """
from runtime import http, net
up = Chan()
server = http.Server(lambda w, r: (up.send(1), Chan().recv()), "127.0.0.1:0")
server.listen()
go(server.serve)
global conn, idle
conn, idle = net.dial("tcp", server.addr), net.dial("tcp", server.addr)
conn.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
up.recv()
""",
    "thread pool whose threads have spawned": """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
assert pool.submit(lambda: go(lambda: 5).join()).result() == 5
parked = pool.submit(go, Chan().recv).result()
""",
    "daemon threads blocked": """
ch = Chan(); mu = Mutex(); mu.lock(); wg = WaitGroup(); wg.add()
g = go(ch.recv)
up = Chan()
def thread(wait):
    up.send(1)
    wait()
for wait in (ch.recv, lambda: ch.recv(1000), mu.lock, wg.wait, g.join, lambda: sleep(1000)):
    threading.Thread(target=thread, args=(wait,), daemon=True).start()
    up.recv()
""",
    "handles and channels in globals": """
ch = Chan(10)
gs = [go(ch.send, i) for i in range(20)]
for _ in range(3): gosched()
cycle = [ch]; cycle.append(cycle); ch.try_recv(); ch.try_send(cycle)
""",
    "failed and asked": """
g = go(lambda: 1 / 0)
gosched()
assert g.exception()
""",
    "greenlets of the program": """
import greenlet
def body():
    greenlet.greenlet(Chan().recv).switch()
for _ in range(10): go(body)
for _ in range(3): gosched()
""",
}


@pytest.mark.parametrize("options", [[], DEV], ids=["plain", "dev"])
@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_main_returns_and_the_program_ends(situation: str, options: list[str]) -> None:
    done = run(
        "import atexit, os, sys, threading\nfrom runtime import *\n"
        f"atexit.register(print, 'atexit')\n{situation}\nprint('end')\n",
        *options,
        GOMAXPROCS="1",  # so that what is said to be on another M is there
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\natexit\n", "")


@pytest.mark.parametrize("dev", ["", "1"], ids=["plain", "dev"])
def test_main_returns_from_all_situations_at_once(dev: str) -> None:
    names = [
        "thousands parked",
        "sleeping",
        "parked deep in C and generators",
        "parked in an exception handler",
        "greenlets of the program",
        "HTTP server with a request in a handler",
        "thread pool whose threads have spawned",
        "daemon threads blocked",
        "aux M with parked goroutines",
        "aux M runs Python for ever",  # last: nothing else runs there from now on
        "fresh goroutines",
    ]
    source = "import os, sys, threading\nfrom runtime import *\n"
    for i, name in enumerate(names):
        source += f"def situation{i}():\n{textwrap.indent(SITUATIONS[name], '    ')}\n"
        source += f"situation{i}()\n"
    done = run(f"{source}print('end')\n", PYTHONDEVMODE=dev, GOMAXPROCS="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("situation", ["thousands parked", "aux M runs Python for ever"])
def test_sys_exit_in_main_sets_the_code(situation: str) -> None:
    done = run(
        f"import sys, threading\nfrom runtime import *\n{SITUATIONS[situation]}\nsys.exit(7)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_exception_in_main_is_shown_once() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        for _ in range(100):
            go(ch.recv)
        gosched()
        raise ValueError("main")
        """
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: main"
    assert done.stderr.count("Traceback") == 1


def test_failed_goroutine_with_a_global_handle_is_reported_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent(
            """
            from runtime import *

            def fails():
                raise ValueError("lost")

            g = go.named("kept")(fails)
            while not g.done():
                gosched()
            print("end")
            """
        )
    )
    done = run(path)
    assert (done.returncode, done.stdout) == (0, "end\n")
    first, *_, source, last = done.stderr.splitlines()
    assert "[kept] failed" in first
    assert (source, last) == ('    raise ValueError("lost")', "ValueError: lost")
    assert "ignored" not in done.stderr


# --- atexit ---------------------------------------------------------------------------------------

USE = """
def use(who):
    ch, mu, wg = Chan(), Mutex(), WaitGroup()
    go(ch.send, "received")
    print(who, ch.recv())
    print(who, go(lambda: (sleep(0.001), "joined")[1]).join())
    wg.add()
    with mu:
        go(lambda: (mu.lock(), wg.done()))
        gosched()
    wg.wait()
    for _ in range(1000):
        go(ch.recv)
    sleep(0.001)
    try:
        Chan().recv(timeout=0.001)
    except TimeoutError:
        print(who, "timeout")
    with net.listen("tcp", "127.0.0.1:0") as listener:
        accepted = go(listener.accept)
        with net.dial("tcp", str(listener.addr)) as client, accepted.join() as server:
            client.write(b"x")
            assert server.read(1) == b"x"
    g = waits_on_another_m
    if g is not None and not g.done():
        wakes_it.send("woken")
        try:
            print(who, g.join())
        except DeadlockError:
            print(who, "its M has stopped")
    try:
        Chan().recv()
    except DeadlockError:
        print(who, "deadlock")

waits_on_another_m = None
"""
ON_ANOTHER_M = """
wakes_it, started = Chan(), Chan()
threading.Thread(target=lambda: started.send(go(
    lambda: (wakes_it.recv(), gosched(), sleep(0.001), "woken on the other M")[-1]))).start()
waits_on_another_m = started.recv()
while waits_on_another_m.state != "waiting":
    gosched()
"""


@pytest.mark.parametrize("options", [[], DEV], ids=["plain", "dev"])
@pytest.mark.parametrize("another_m", ["", ON_ANOTHER_M], ids=["one M", "two Ms"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_atexit_handlers_registered_before_and_after_the_import(
    when: str, another_m: str, options: list[str]
) -> None:
    register = "\nimport atexit, threading\natexit.register(lambda: use('handler'))\n"
    imports = "\nfrom runtime import *\nfrom runtime import net\n"
    head = register + imports if when == "before" else imports + register
    # A goroutine of the program that is left parked is no hindrance.
    done = run(
        f"{head}{USE}{another_m}\ng = go(Chan().recv)\ngosched()\nprint('end')\n",
        *options,
        GOMAXPROCS="1",
    )
    assert done.returncode == 0
    said = ["received", "joined", "timeout", "deadlock"]
    if another_m:
        # Handlers run in the opposite order of registration, ours among them.
        said.insert(3, "woken on the other M" if when == "after" else "its M has stopped")
    deadlocks = 2 if "its M has stopped" in said else 1
    assert done.stderr.count("all goroutines are asleep - deadlock!") == deadlocks
    assert done.stdout.splitlines() == ["end", *(f"handler {what}" for what in said)]


def test_atexit_handlers_and_goroutines_run_in_turn() -> None:
    done = run(
        """
        import atexit

        def handler(n):
            print("handler", n)
            ch.send(n)
            while n not in said:
                gosched()

        atexit.register(handler, 1)
        from runtime import *
        atexit.register(handler, 2)
        ch, said = Chan(), []

        def body():
            for n in ch:
                print("goroutine", n)
                said.append(n)

        go(body)
        atexit.register(handler, 3)
        """,
        GOMAXPROCS="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"handler {n}\ngoroutine {n}\n" for n in (3, 2, 1))


def test_atexit_handler_that_fails_does_not_keep_the_others() -> None:
    done = run(
        """
        import atexit
        from runtime import *

        atexit.register(lambda: print(go(lambda: "last").join()))
        atexit.register(lambda: go(lambda: 1 / 0).join())
        atexit.register(lambda: Chan().recv())
        atexit.register(lambda: print(go(lambda: "first").join()))
        """
    )
    assert (done.returncode, done.stdout) == (0, "first\nlast\n")
    assert done.stderr.count("Traceback") == 2
    assert "DeadlockError" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_atexit_handlers_after_sys_exit_in_a_goroutine() -> None:
    done = run(
        """
        import atexit, sys
        from runtime import *

        atexit.register(lambda: print(go(lambda: (sleep(0.001), "atexit")[1]).join()))
        go(sys.exit, 3)
        Chan().recv()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "atexit\n", "")


def test_atexit_handler_closes_a_server_that_is_asked_meanwhile() -> None:
    done = run(
        """
        import atexit
        from runtime import *
        from runtime import http, net

        server = http.Server(lambda w, r: (asked.send(1), sleep(0.01), "served")[2], "127.0.0.1:0")
        server.listen()
        serving = go(server.serve)
        asked = Chan()

        def client():
            with net.dial("tcp", server.addr) as conn:
                conn.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                answer = b""
                while not answer.endswith(b"served"):
                    answer += conn.read()
                return "client: served"

        @atexit.register
        def handler():
            asks = go(client)
            asked.recv()
            print("shut down:", server.shutdown(timeout=60))
            print(asks.join())
            serving.join()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "shut down: True\nclient: served\n"


# --- finalizers -----------------------------------------------------------------------------------

# What the finalizer of a global object may try when the interpreter is being taken down.
FINALIZERS = {
    "go": "go(len, 'x')",
    "go and join": "go(len, 'x').join()",
    "gosched": "go(len, 'x'); gosched()",
    "send": "ch.send(1)",
    "recv": "ch.recv()",
    "recv with timeout": "ch.recv(timeout=0.001)",
    "close": "ch.close()",
    "sleep": "go(len, 'x'); sleep(0.001)",
    "lock": "Mutex().lock()",
    "wait": "wg = WaitGroup(); wg.add(); wg.wait()",
    "current": "current().name",
    "stats": "stats(); num_goroutine()",
}


@pytest.mark.parametrize("workers", ["", "go(gosched).join()"], ids=["fresh", "with workers"])
@pytest.mark.parametrize("use", FINALIZERS.values(), ids=FINALIZERS.keys())
def test_finalizer_of_a_global_may_fail_but_not_crash(use: str, workers: str) -> None:
    done = run(
        f"""
from runtime import *

class Last:
    def __del__(self, ch=Chan(), use={use!r}, ns=dict(globals())):
        try:
            exec(use, ns | {{"ch": ch}})
        except (RuntimeError, TimeoutError):    # DeadlockError, too
            pass

{workers}
last = Last()
print("end")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], DEV], ids=["plain", "dev"])
def test_exit_strikes_a_goroutine_between_giving_a_lock_back_and_leaving(
    options: list[str],
) -> None:
    """What that makes fail is no news; what else fails, is."""
    done = run(
        """
        import threading
        from runtime import *

        gomaxprocs(2)
        lock, ready = threading.Lock(), threading.Semaphore(0)

        def twice():
            lock.acquire()
            try:
                lock.release()
                ready.release()
                while True:
                    pass
            finally:
                lock.release()

        def fails():
            raise ValueError("news")

        go(twice)
        ready.acquire()
        go(fails)
        while num_goroutine() > 2:
            gosched()
        """,
        *options,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("ValueError: news\n")


def test_main_thread_ends_before_other_threads_which_go_on() -> None:
    done = run(
        """
        import threading
        from runtime import *

        ch = Chan()
        ended = threading.Event()

        def consumer():
            ended.wait()
            for value in ch:
                print("got", value)

        def producer():
            ended.wait()
            for i in range(3):
                ch.send(i, timeout=60)
            ch.close()

        threading.Thread(target=consumer).start()
        threading.Thread(target=producer).start()
        print("main ends")
        ended.set()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "main ends\ngot 0\ngot 1\ngot 2\n"


def test_os_exit_in_a_goroutine() -> None:
    done = run("import os\nfrom runtime import *\ngo(os._exit, 5)\nsleep(1000)\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")


def test_second_interpreter_is_refused() -> None:
    done = run(
        """
        import runtime
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        interp = interpreters.create()
        code = "try: import runtime\\nexcept ImportError: pass\\nelse: raise SystemExit('loaded')"
        interpreters.run_string(interp, code)
        interpreters.destroy(interp)
        print(runtime.go(lambda: "first one works").join())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "first one works\n", "")
