"""Type checker for the jaxtyping annotations of the package; the pytest options in pyproject.toml name it.

The checker is beartype with the numeric tower of PEP 484: it accepts an int where a float is annotated.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
