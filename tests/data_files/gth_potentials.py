"""Pseudopotentials of Goedecker, Teter and Hutter for PBE, from their published parameters.

The numbers are those of CP2K's set UZH: S. Goedecker, M. Teter, J. Hutter, Phys. Rev. B 54, 1703 (1996);
C. Hartwigsen, S. Goedecker, J. Hutter, Phys. Rev. B 58, 3641 (1998). Radii in bohr, energies in hartree.
"""

from __future__ import annotations

from pathlib import Path

#: Name of the file, atomic number, charge, r_loc, C_1 …, and for l = 0, 1 the radius and the triangle of h, by rows.
POTENTIALS = {
    "Be": (
        "Be.pbe-gth-q2.gth",
        (4, 2),
        (0.73814227485959, -2.58105277727435, 0.36778122185676),
        [(0.52787019040905, [[3.05281309477106]]), (0.65423128270096, [[0.09529367235766]])],
    ),
    "Al": (
        "Al.pbe-gth-q3.gth",
        (13, 3),
        (0.45000971106835, -7.55644997237063),
        [
            (0.48744057136206, [[6.96008533256047, -1.88883535944668], [2.43848344694845]]),
            (0.56227366274780, [[1.86536320212543]]),
        ],
    ),
}


def write_gth(folder: Path, symbol: str) -> Path:
    """Write an element's potential in the layout that pw.x reads, ABINIT's pspcod 10."""
    name, (number, charge), (radius, *local), channels = POTENTIALS[symbol]
    lines = [
        f"{symbol} GTH-PBE-q{charge}",
        f" {number} {charge} 70301 zatom,zion,pspdat",
        " 10 11 1 0 2002 0 pspcod,pspxc,lmax,lloc,mmax,r2well",
        f" {radius} {len(local)} {' '.join(map(str, local))}",
        f" {len(channels)}",
    ]
    for width, rows in channels:
        first, *others = (" ".join(map(str, row)) for row in rows)
        lines += [f" {width} {len(rows)} {first}", *(f" {row}" for row in others)]
    path = folder / name
    path.write_text("\n".join([*lines, " 0.0", ""]))
    return path
