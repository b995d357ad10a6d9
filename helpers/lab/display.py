"""How things are shown: live where a reader can move them, still where no one can."""

import os

STATIC = "COURSE_STATIC"
"""Set to 1 where no one can move a live widget (reports, committed notebooks): only what needs no kernel is made."""


def static() -> bool:
    """Whether this run is one that no one watches."""
    return bool(os.environ.get(STATIC))
