"""Moments of images at grid points by one Triton kernel: height → bells → moments, nothing between kept in memory.

Torch's products write every bell, ``[block, grid, image]`` for each radial function, and read it again; that traffic is
what bounds the power spectrum on a GPU. Here a program holds a tile of points, walks over the images and adds up

    M_n = Σ_a w_n(|p − a|²) S(a),   w_n = max(0, 1 − |p − a|²/r_c²)^(3·2^n)

with the products in IEEE float32 (``input_precision="ieee"``): the amplitudes cancel when they are moved to the point.
Triton comes with torch's builds for CUDA; on the CPU the kernel runs in Triton's interpreter (``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    tl: Any
    triton: Any
else:
    try:
        triton, tl = import_module("triton"), import_module("triton.language")
    except ImportError:
        triton = tl = None

#: Points and images of a tile. 64 · 32 sums in float32 are 64 registers of each of 128 threads.
_POINTS, _IMAGES = 64, 32


def check_triton(device: torch.device) -> None:
    """Whether the kernel can run there.

    Raises:
        ValueError: Triton is not installed, or the device is no GPU.
    """
    if triton is None:
        raise ValueError('kernels="triton" needs the package triton, which is not installed; torch for CUDA brings it')
    if device.type != "cuda":
        raise ValueError(f'kernels="triton" needs a CUDA device; the model is on {device}')


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernel, on the CPU: the environment says so when Triton is imported."""
    return type(_moments_kernel).__name__ == "InterpretedFunction"


def triton_moments(
    points: Tensor, images: Tensor, harmonics: Tensor, counts: Sequence[int], cutoff: float, out: Tensor
) -> None:
    """Moments M_n of the images of one species into ``out``.

    Args:
        points: of each block about its centre, Å, ``[grid, 3]``.
        images: about the centres, Å, the nearest first, ``[block, image, 3]``.
        harmonics: of the images, ``[block, image, lm]``.
        counts: how many images each radial function needs.
        cutoff: Å.
        out: ``[grid, block, radial, lm]``.

    Raises:
        ValueError: see ``check_triton``; its interpreter needs no GPU.
    """
    if not interpreted():
        check_triton(points.device)
    # here rather than by a factor for the kernel, where a number of Python would be a float32
    points, images, size = points / cutoff, images / cutoff, harmonics.shape[2]
    strides = (*points.stride(), *images.stride(), *harmonics.stride(), out.stride(0), out.stride(1), out.stride(3))
    tiles = (-(-len(points) // _POINTS), len(images))
    with torch.cuda.device_of(points):  # Triton launches on the current device, which may be another
        for radial, count in enumerate(counts):
            _moments_kernel[tiles](
                points,
                images,
                harmonics,
                out[:, :, radial],
                len(points),
                count,
                size,
                *strides,
                RADIAL=radial,
                POINTS=_POINTS,
                IMAGES=_IMAGES,
                WIDTH=max(16, triton.next_power_of_2(size)),
            )


def _moments_of_tile(  # type: ignore[no-untyped-def] # noqa: ANN202 - Triton reads annotations as its own
    points,  # noqa: ANN001
    images,  # noqa: ANN001
    harmonics,  # noqa: ANN001
    out,  # noqa: ANN001
    n_points,  # noqa: ANN001
    n_images,  # noqa: ANN001
    size,  # noqa: ANN001
    point_row,  # noqa: ANN001
    point_axis,  # noqa: ANN001
    image_block,  # noqa: ANN001
    image_row,  # noqa: ANN001
    image_axis,  # noqa: ANN001
    harmonic_block,  # noqa: ANN001
    harmonic_row,  # noqa: ANN001
    harmonic_axis,  # noqa: ANN001
    out_row,  # noqa: ANN001
    out_block,  # noqa: ANN001
    out_axis,  # noqa: ANN001
    RADIAL: tl.constexpr,
    POINTS: tl.constexpr,
    IMAGES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """M_n of a tile of points of a block, for one radial function; points and images in units of r_c."""
    block = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    there = rows < n_points
    columns = tl.arange(0, WIDTH)
    x = tl.load(points + rows * point_row, mask=there, other=0.0)
    y = tl.load(points + rows * point_row + point_axis, mask=there, other=0.0)
    z = tl.load(points + rows * point_row + 2 * point_axis, mask=there, other=0.0)
    total = tl.zeros((POINTS, WIDTH), dtype=points.dtype.element_ty)
    for first in range(0, n_images, IMAGES):
        numbers = first + tl.arange(0, IMAGES)
        near = numbers < n_images
        place = images + block * image_block + numbers * image_row
        # differences, which lose nothing to cancellation
        dx = x[:, None] - tl.load(place, mask=near, other=0.0)[None, :]
        dy = y[:, None] - tl.load(place + image_axis, mask=near, other=0.0)[None, :]
        dz = z[:, None] - tl.load(place + 2 * image_axis, mask=near, other=0.0)[None, :]
        height = tl.maximum(1.0 - dx * dx - dy * dy - dz * dz, 0.0)
        bell = height * height * height
        for _ in tl.static_range(RADIAL):
            bell = bell * bell
        values = tl.load(
            harmonics + block * harmonic_block + numbers[:, None] * harmonic_row + columns[None, :] * harmonic_axis,
            mask=near[:, None] & (columns[None, :] < size),
            other=0.0,
        )
        total = tl.dot(bell, values, total, input_precision="ieee", out_dtype=points.dtype.element_ty)
    tl.store(
        out + rows[:, None].to(tl.int64) * out_row + block * out_block + columns[None, :] * out_axis,
        total,
        mask=there[:, None] & (columns[None, :] < size),
    )


_moments_kernel: Any = None if triton is None else triton.jit(_moments_of_tile)
