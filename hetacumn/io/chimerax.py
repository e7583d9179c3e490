"""A ChimeraX script that shows the volumes along a path as a morph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hetacumn.common.files import atomic_path


def write_morph(path: Path | str, volumes: Sequence[Path | str], level: float) -> None:
    """Write a ``.cxc`` script that opens volumes (paths relative to the script) at one contour level and plays a morph."""
    path, count = Path(path), len(volumes)
    lines = [
        "# Open with ChimeraX: a morph between the volumes along a path through the latent space.",
        *(f"open {volume}" for volume in volumes),
        f"volume #1-{count} level {level:.6g} color #0072B2",
        f"volume morph #1-{count} playStep 0.02 slider true",
        f"hide #1-{count} models",
        "view",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
