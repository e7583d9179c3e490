"""The fingerprint of a stack: a few numbers by which a run recognises the particles that its files were made from."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields
from math import isclose
from pathlib import Path

from torch import Tensor

from hetacumn.errors import HetacumnError
from hetacumn.observations import Observations

TOLERANCE = 1e-5  # relative, to which two kinds of device agree in a power
PART = 1000  # images whose power is summed at a time: in double precision a whole stack would take twice its memory


@dataclass(frozen=True)
class StackFingerprint:
    """The number of particles, and mean powers: of all images, of the first and the last image, and of the CTFs.

    Powers are rounded to six decimals.
    """

    particles: int
    power: float
    power_first: float
    power_last: float
    power_ctf: float

    @classmethod
    def of(cls, data: Observations) -> StackFingerprint:
        """Measure a packed stack."""
        powers = (_mean_power(values) for values in (data.y, data.y[:1], data.y[-1:], data.ctf))
        return cls(len(data), *powers)

    def matches(self, other: StackFingerprint) -> bool:
        """Tell whether both are of one stack: equal, but for the rounding errors of two devices."""
        powers = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return self.particles == other.particles and all(isclose(a, b, rel_tol=TOLERANCE) for a, b in powers)

    def to_json(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, path: Path) -> StackFingerprint:
        """Rebuild a fingerprint from the file ``path``, where :meth:`to_json` was written.

        Raises:
            HetacumnError: the content is no fingerprint, as in files of older versions.
        """
        if not isinstance(content, dict) or set(content) != {field.name for field in fields(cls)}:
            raise HetacumnError(f"{path}: made by another version, without a fingerprint of its stack; delete it to "
                                "begin anew, or choose another folder")
        return cls(**content)

    def __str__(self) -> str:
        return (f"{self.particles} particles of power {self.power:.6f} ({self.power_first:.6f} to {self.power_last:.6f}), "
                f"CTFs of power {self.power_ctf:.6f}")


def _mean_power(values: Tensor) -> float:
    total = float(sum(part.abs().square().double().sum() for part in values.split(PART)))
    return round(total / values.numel(), 6)
