"""Let no example fail for the time it takes: a busy machine may stop at any place."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
