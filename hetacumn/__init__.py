"""HetACUMN: heterogeneous ab initio reconstruction in cryo-EM by amortized inference.

An open implementation of the method of arXiv 2308.04956. Start reading at :mod:`hetacumn.model`.

Conventions, the same everywhere
--------------------------------
Arrays
    Images are ``(..., y, x)``, volumes ``(..., z, y, x)``, vectors ``(x, y)`` or ``(x, y, z)``. Boxes are even
    and the origin is at index ``box // 2``.
Rotations
    ``R`` is ``(..., 3, 3)``, left-multiplies column vectors and takes object to view, ``x_view = R x_object``;
    the image is the projection along view z. In Fourier space a slice reads the volume at ``Rᵀ (kx, ky, 0)``.
    Euler angles are RELION's (rot, tilt, psi), ZYZ, in degrees.
Hand
    No image can tell a volume from its mirror image: poses are compared over one global rotation and both hands.
Shifts
    A shift ``t`` moves the image by ``+t``: Å in files, pixels inside. RELION's origin is minus our shift.
Optics
    Defocus in Å, positive is underfocus. The CTF has RELION's sign: ``+w`` (amplitude contrast) at the origin.
Contrast
    Protein is bright in memory, whichever sign the file has.
Noise
    Images are normalised to noise of unit variance per pixel; two-dimensional transforms are orthonormal, so that
    this is unit variance per Fourier coefficient too. SNR is the variance of the clean image over that of the
    noise, both over the whole box.
"""

__version__ = "0.1.0"
