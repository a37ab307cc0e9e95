"""How much CPU an echo over TCP costs: a goroutine for each connection, and its peers.

    python benchmarks/net_echo.py [--rounds 5] [--seconds 3] [--only gosched,go] [--bytes 64]

In every round each server is started afresh on one core, warmed up for a second and
loaded from another core over 64 connections, each of which has one message of 64 bytes
under way. The figure to compare is the CPU time of the server's core for each echo:
echoes per second are bounded by the load generator, too.
"""

from options import parse, parser
from tcp import ECHO_SERVERS, Scenario, run, under_load

if __name__ == "__main__":
    made = parser(__doc__, list(ECHO_SERVERS), seconds=3.0)
    made.add_argument("--connections", type=int, default=64)
    made.add_argument("--bytes", type=int, default=64, help="of a message")
    options = parse(made)
    measure = under_load("echo_load", lambda o: [o.connections, o.bytes])
    title = f"echo of {options.bytes} bytes, {options.connections} connections"
    run([Scenario(title, "echo", ECHO_SERVERS, measure)], options)
