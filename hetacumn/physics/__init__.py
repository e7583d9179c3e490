"""Image formation: rotations, Fourier transforms, the CTF, slices, the FSC and the alignment of volumes.

Public face: a module a concept. The conventions are those of :mod:`hetacumn`.
"""
