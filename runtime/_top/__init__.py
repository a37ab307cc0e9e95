"""`python -m runtime top ADDR`: a server's live page in a terminal.

    names     which views there are
    question  what can be asked of a server
    source    where answers come from: an address, and the HTTP requests to it
    rates     what happened in between two samples of the counters
    counters  that again and again: what is kept of it
    rows      the server's tables of goroutines, and one with its stack
    figures   numbers as text
    layout    lines and tables that fit
    overview, heatmap, tables
              counters, latencies, goroutines as lines of text
    browser, detail
              where a user is in a table, and in a stack
    views     each view: what it asks, its keys, its lines
    view      the whole screen around one, for any size
    keys      names of the keys
    terminal  the screen, the keys, and how they are left behind
    poller    the thread that asks
    live      the loop that joins the others
    command   the command line

Rates and lines of text are pure functions. Nothing here runs in the server.
"""

from runtime._top.command import main

__all__ = ["main"]
