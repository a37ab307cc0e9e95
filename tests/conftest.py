"""Settings of the whole suite."""

from hypothesis import settings

# No deadline: a loaded machine is no failure.
settings.register_profile("gosched", deadline=None)
settings.load_profile("gosched")
