"""How much CPU connections cost that come and go, where they are accepted and where dialled.

    python benchmarks/net_churn.py [--rounds 5] [--seconds 3] [--only gosched,go] [--what dial]

    message   a C program connects, has 64 bytes echoed and hangs up, 64 connections at a time; the
              server accepts, starts a goroutine, reads, writes, reads the end, and closes
    nothing   the same without a message
    dial      connect to a server in C (minimal, on the other core) and close, one after another,
              with keep-alive and no delay set as Go sets them

The figure to compare is the CPU time of the measured program's core for each connection.
"""

import argparse

from harness import Program, Unavailable
from options import parse, parser
from servers import BIN, OURS, Server, from_checkout, python
from tcp import ECHO_SERVERS, Sample, Scenario, run, under_load

CONNECTIONS = 64
CONNECT = "connection"  # the unit

DIALERS = {
    server.name: server
    for server in (
        Server(OURS, "gosched", python("dial_gosched.py"), from_checkout()),
        Server("blocking", "Python, blocking socket", python("dial_blocking.py")),
        Server("go", "Go net", (str(BIN / "dial_go"),), {"GOMAXPROCS": "1"}),
        Server("gevent", "gevent", python("dial_gevent.py")),
    )
}


def dial(dialer: Server, options: argparse.Namespace) -> Sample:
    cores = [options.server_core]
    with ECHO_SERVERS["c"].running([options.load_core]) as (_, address):
        argv = [*dialer.argv, address, str(options.seconds)]
        with Program(argv, cores=cores, env=dialer.env) as program:
            made, took, used = map(float, program.output(options.seconds + 30).split())
    if made == 0:
        raise Unavailable("made no connection")
    return Sample(made / took, used / made * 1e6, used / took)


SCENARIOS = {
    "message": Scenario(
        "connect, one message, close",
        CONNECT,
        ECHO_SERVERS,
        under_load("churn_load", lambda o: [CONNECTIONS, 64]),
    ),
    "nothing": Scenario(
        "connect, close",
        CONNECT,
        ECHO_SERVERS,
        under_load("churn_load", lambda o: [CONNECTIONS, 0]),
    ),
    "dial": Scenario("dial, close", CONNECT, DIALERS, dial),
}


if __name__ == "__main__":
    made = parser(__doc__, list(ECHO_SERVERS | DIALERS), seconds=3.0)
    made.add_argument("--what", choices=SCENARIOS, help="one of them; otherwise all in turn")
    options = parse(made)
    run([s for name, s in SCENARIOS.items() if options.what in (None, name)], options)
