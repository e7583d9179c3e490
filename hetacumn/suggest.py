"""What a user may have meant by a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 12


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or, where none is near, the known names."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    listed = ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")
    return f"expected one of {listed}" if names else "there is none"
