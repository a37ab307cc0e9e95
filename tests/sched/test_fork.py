"""fork: the child has its own poller, and the parent does not notice the child."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runtime
from runtime import net


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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_run_goroutines(method: str, tmp_path: Path) -> None:
    program = (
        "import multiprocessing, runtime\n"
        "def work(n):\n"
        "    return runtime.go(lambda: n * n).join(timeout=30)\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        print(pool.map(work, range(5)))\n"
    )
    assert method in multiprocessing.get_all_start_methods()
    script = tmp_path / "pool.py"
    script.write_text(program)
    root = str(Path(runtime.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout == "[0, 1, 4, 9, 16]\n", done.stderr


def test_subprocess_in_a_goroutine() -> None:
    run = runtime.go(
        subprocess.run, [sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True
    )
    assert run.join(timeout=60).stdout == "42\n"
