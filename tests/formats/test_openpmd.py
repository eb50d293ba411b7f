"""openPMD files, read back by openPMD's own library."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from ase_ldos.dataset.npz import Snapshot, save_snapshot
from ase_ldos.formats.convert import convert
from ase_ldos.formats.openpmd import write_openpmd


def snapshot(name: str = "be") -> Snapshot:
    rng, atoms = np.random.default_rng(0), bulk("Be", "hcp", a=2.25, c=3.54)
    return Snapshot(
        name=name,
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        positions=atoms.positions,
        energies=np.array([-1.0, 0.0, 1.0]),
        ldos=rng.random((4, 5, 6, 3)).astype(np.float16),
        ldos_scale=0.5,
        density=rng.random((4, 5, 6)).astype(np.float32),
    )


def test_fields_units_and_structure_survive(tmp_path: Path) -> None:
    io = pytest.importorskip("openpmd_api", reason="openpmd-api (extra openpmd) is not installed")
    original = snapshot()
    save_snapshot(tmp_path / "be.npz", original)
    convert([tmp_path / "be.npz"], tmp_path / "out", "openpmd")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["be.h5"]
    series = io.Series(str(tmp_path / "out/be.h5"), io.Access.read_only)
    iteration = series.iterations[0]
    density = iteration.meshes["density"]
    component = density[io.Mesh_Record_Component.SCALAR]
    values = component.load_chunk()
    ldos = iteration.meshes["LDOS"]
    fields = [ldos[str(i)].load_chunk() for i in range(3)]
    atoms = iteration.particles["atoms"]
    positions = [atoms["position"][axis].load_chunk() for axis in "xyz"]
    numbers = atoms["atomicNumber"][io.Mesh_Record_Component.SCALAR].load_chunk()
    series.flush()
    np.testing.assert_array_equal(values, original.density)
    np.testing.assert_array_equal(np.stack(fields, axis=-1), original.ldos_values())
    np.testing.assert_allclose(np.stack(positions, axis=-1), original.positions, atol=1e-14)
    np.testing.assert_array_equal(numbers, [4, 4])
    assert component.unit_SI == pytest.approx(1e30)  # 1/Å³ in 1/m³
    assert ldos["0"].unit_SI == pytest.approx(1 / (1.602176634e-19 * 1e-30))  # 1/(eV Å³) in 1/(J m³)
    # powers of length, mass, time, current, temperature, amount, luminosity
    assert density.unit_dimension == [-3, 0, 0, 0, 0, 0, 0]
    assert ldos.unit_dimension == [-5, -1, 2, 0, 0, 0, 0]
    assert density.geometry == io.Geometry.other
    np.testing.assert_allclose(density.grid_spacing, [2.25 / 4, 2.25 / 5, 3.54 / 6])
    np.testing.assert_allclose(density.get_attribute("latticeVectors"), original.cell.ravel())
    assert ldos.get_attribute("energies") == [-1.0, 0.0, 1.0]
    series.close()


def test_bad_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"with a name in \.h5; the name given is 'be\.bp'"):
        write_openpmd(tmp_path / "be.bp", snapshot())
    bare = replace(snapshot(), density=None, ldos=None)
    with pytest.raises(ValueError, match="neither density nor LDOS"):
        write_openpmd(tmp_path / "be.h5", bare)
    monkeypatch.setitem(sys.modules, "openpmd_api", None)
    with pytest.raises(ValueError, match=r"pip install 'ase-ldos\[openpmd\]'"):
        write_openpmd(tmp_path / "be.h5", snapshot())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX'")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The library of HDF5 would end the process."""
    pytest.importorskip("openpmd_api", reason="openpmd-api (extra openpmd) is not installed")
    save_snapshot(tmp_path / "be.npz", snapshot())
    code = (
        "import resource, sys; from ase_ldos.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "convert", "be.npz", "--to", "openpmd", "--out", "out"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "ase-ldos convert: error: cannot write out/be.h5: File too large"
    assert list((tmp_path / "out").iterdir()) == []
