"""What a user may have meant by a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 12


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, or None where none is like it."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or, where none is near, the known names."""
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"did you mean {near}?"
    listed = ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")
    return f"expected one of {listed}" if names else "there is none"
