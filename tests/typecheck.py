"""The checker of the shapes in the package's annotations (jaxtyping), which pytest's options name.

Like beartype, but an int may stand where a float is annotated, as PEP 484 has it.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
