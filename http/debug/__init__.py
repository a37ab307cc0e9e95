"""The live page: what the scheduler and the servers of a running program do, in a browser.

mux.mount("/debug/", http.debug.handler())
"""

from runtime._http.debug.handler import handler

__all__ = ["handler"]
