"""What every tier shares."""

from hypothesis import settings

# A deadline for one example is a timed test, and a busy machine fails it; the suite has its own time limits.
settings.register_profile("inferlane", deadline=None)
settings.load_profile("inferlane")
