"""How much CPU it costs to stream over TCP, in pieces of 1 MiB, and what peers need.

    python benchmarks/net_stream.py [--rounds 5] [--seconds 3] [--only gosched,c] [--way read]

One connection, on whose other end a C program writes or reads as fast as it can.  Our server reads
with read_into() and a buffer that is used again, and writes 1 MiB of bytes; so do its peers.
The floor is a loop of plain blocking calls in C.  The figure to compare is the CPU time of the
server's core for each MiB.
"""

from options import parse, parser
from tcp import Scenario, peers, run, under_load

SERVERS = peers("stream", "C, blocking", "blocking_stream")
WAYS = {  # name: what the load does
    "read": "w",
    "write": "r",
}


if __name__ == "__main__":
    made = parser(__doc__, list(SERVERS), seconds=3.0)
    made.add_argument("--way", choices=WAYS, help="what the servers do; otherwise both in turn")
    options = parse(made)
    run(
        [
            Scenario(f"{way} 1 MiB", "MiB", SERVERS, under_load("stream_load", lambda o, c=c: [c]))
            for way, c in WAYS.items()
            if options.way in (None, way)
        ],
        options,
    )
