"""File formats of cryo-EM (STAR, .cs, MRC, image stacks), and downloads from the archive EMPIAR.

Main entry points: :func:`~hetacumn.io.star.read_table` for every particle table, :func:`~hetacumn.io.mrc.read_volumes` and
:func:`~hetacumn.io.mrc.write_volumes` for maps, :func:`~hetacumn.io.stacks.open_stack` for images.
"""
