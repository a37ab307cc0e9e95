"""`python -m runtime top ADDR`: a server's live page in a terminal.

    source    where samples come from: an address, and the HTTP request for one
    rates     what happened in between two samples
    view      that as lines of text, for any size
    terminal  the screen, the keys, and how they are left behind
    poller    the thread that asks
    live      the loop that joins the others
    command   the command line

The rates and the view are pure functions. Nothing here runs in the server.
"""

from runtime._top.command import main

__all__ = ["main"]
