"""Files of the field: STAR, .cs, MRC, image stacks, and the archive EMPIAR.

Public face: :func:`~hetacumn.io.star.read_table` for every particle table, :func:`~hetacumn.io.mrc.read_volumes` and
:func:`~hetacumn.io.mrc.write_volumes` for maps, :func:`~hetacumn.io.stacks.open_stack` for images.
"""
