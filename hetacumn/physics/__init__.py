"""Image formation: rotations, point groups, Fourier transforms, the CTF, slices, the FSC and the alignment of volumes.

Each module contains one concept. :mod:`hetacumn` states the conventions.
"""
