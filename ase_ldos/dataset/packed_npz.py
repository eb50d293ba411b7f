"""Many records of arrays, shapes differing from record to record, in one flat set of arrays.

Record r's array under a key is a slice of the key's flat array; row r of ``KEY.shape`` holds 1 and the array's
shape, or zeros where the record lacks the key. So a few hundred labelled structures fit into one compressed
``.npz`` file without pickle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

#: Value of the key ``format`` by which a packed file is recognised.
FORMAT = "ase-ldos packed 1"


def pack_records(records: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join records into flat arrays and shapes.

    Raises:
        ValueError: there are no records, or a key has different numbers of axes in different records.
    """
    if not records:
        raise ValueError("there is nothing to pack; give at least one snapshot")
    packed: dict[str, np.ndarray] = {"format": np.array(FORMAT), "count": np.array(len(records))}
    for key in dict.fromkeys(key for record in records for key in record):
        axes = {record[key].ndim for record in records if key in record}
        if len(axes) > 1:
            raise ValueError(f"key {key!r} has {sorted(axes)} axes in different snapshots; it must have one number")
        absent = (0,) * (1 + axes.pop())
        shapes = [(1, *record[key].shape) if key in record else absent for record in records]
        packed[key] = np.concatenate([record[key].ravel() for record in records if key in record])
        packed[f"{key}.shape"] = np.array(shapes, dtype=np.int32)
    return packed


def unpack_records(packed: Mapping[str, np.ndarray], keys: Iterable[str], source: str) -> list[dict[str, np.ndarray]]:
    """Split what :func:`pack_records` joined.

    Args:
        packed: the arrays of a packed file.
        keys: the keys of the file.
        source: the file's name for messages.

    Raises:
        ValueError: another version of the format, or arrays that do not fit their shapes.
    """
    if str(packed["format"]) != FORMAT:
        raise ValueError(f"{source} has the format {str(packed['format'])!r}; this version reads {FORMAT!r}")
    tables = {key: packed[key] for key in keys if key.endswith(".shape")}
    count = _count(packed, tables, source)
    records: list[dict[str, np.ndarray]] = [{} for _ in range(count)]
    for key in keys:
        if key in ("format", "count") or key.endswith(".shape"):
            continue
        if f"{key}.shape" not in tables:
            raise ValueError(f"{source}: key {key!r} has no shapes")
        flat, shapes = packed[key], tables[f"{key}.shape"]
        sizes = [math.prod(row) for row in shapes.tolist()]
        if flat.ndim != 1 or len(shapes) != count or sum(sizes) != flat.size:
            raise ValueError(
                f"{source}: key {key!r} holds {flat.size} values for {len(shapes)} records; its shapes ask for "
                f"{sum(sizes)} values and {count} records (is the file cut off?)"
            )
        ends = np.cumsum(sizes)
        for record, row, size, end in zip(records, shapes, sizes, ends, strict=True):
            if row[0] == 1:
                record[key] = flat[end - size : end].reshape(tuple(int(n) for n in row[1:]))
    return records


def _count(packed: Mapping[str, np.ndarray], tables: Mapping[str, np.ndarray], source: str) -> int:
    """Number of records as the tables of shapes tell it, before anything is made of what the file says itself."""
    for key, table in tables.items():
        if table.ndim != 2 or table.dtype.kind not in "iu" or np.any(table < 0):
            raise ValueError(
                f"{source}: key {key!r} is {table.dtype} of shape {table.shape}; a table of sizes is expected"
            )
    count = max((len(table) for table in tables.values()), default=0)
    said = packed.get("count")
    if said is None or said.shape != () or said.dtype.kind not in "iu" or int(said) != count:
        raise ValueError(f"{source}: the count is {said}, but there are {count} records (is the file cut off?)")
    return count
