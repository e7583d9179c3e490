"""Image formation: rotations, Fourier transforms, the CTF, slices, the FSC and the alignment of volumes.

Public face: one module per concept. :mod:`hetacumn` states the conventions.
"""
