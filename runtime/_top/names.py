"""The names of the views, in the order of their keys."""

NAMES = ("overview", "goroutines", "waits", "latency")
