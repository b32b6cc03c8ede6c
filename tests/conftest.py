"""What holds for every test: no example is failed for its time, on machines that others use too."""

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
