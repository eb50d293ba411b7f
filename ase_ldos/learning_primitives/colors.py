"""A multi-layer perceptron learns colours: RGB in, the name of the basic colour family out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from torch import Tensor, nn

from ase_ldos.networks.mlp import MLP
from ase_ldos.training.loop import History, fit

FAMILIES = ("black", "white", "grey", "red", "green", "yellow", "blue", "brown", "orange", "pink", "purple")
"""The eleven basic colour terms of Berlin and Kay (1969)."""
CORNERS = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")


@dataclass(frozen=True)
class ColorData:
    """Colours and what they are called.

    Attributes:
        rgb: sRGB values 0 ... 1, ``[N, 3]``.
        labels: index of each colour's name, int64, ``[N]``.
        names: the names.

    Raises:
        ValueError: empty, misshaped, out of range, NaN, or colours of one name only.
    """

    rgb: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.rgb.numel() == 0:
            raise ValueError("there are no colours to learn from")
        if self.rgb.ndim != 2 or self.rgb.shape[1] != 3 or self.labels.shape != self.rgb.shape[:1]:
            shapes = f"{list(self.rgb.shape)} and {list(self.labels.shape)}"
            raise ValueError(f"colours must be [N, 3] and labels [N], got {shapes}")
        if not ((self.rgb >= 0) & (self.rgb <= 1)).all():
            raise ValueError("RGB values must lie between 0 and 1: some lie outside or are NaN")
        if self.labels.dtype != torch.int64 or self.labels.min() < 0 or self.labels.max() >= len(self.names):
            raise ValueError(f"labels must be int64 indices 0 ... {len(self.names) - 1} of the names")
        if (self.labels == self.labels[0]).all():
            raise ValueError(f"all colours are {self.names[int(self.labels[0])]}: learning needs two names or more")

    def __getitem__(self, chosen: Tensor) -> ColorData:
        """The colours with these indices or this mask."""
        return ColorData(self.rgb[chosen], self.labels[chosen], self.names)

    def folds(self, n_folds: int, generator: torch.Generator) -> Tensor:
        """Deal the colours into folds, each name as evenly as possible: the fold of every colour, ``[N]``.

        Raises:
            ValueError: fewer than two folds, or more than colours.
        """
        if not 2 <= n_folds <= len(self.labels):
            raise ValueError(
                f"{len(self.labels)} colours can be dealt into 2 ... {len(self.labels)} folds, not {n_folds}"
            )
        shuffled = torch.randperm(len(self.labels), generator=generator)
        by_name = shuffled[torch.argsort(self.labels[shuffled], stable=True)]
        folds = torch.empty_like(self.labels)
        folds[by_name] = torch.arange(len(self.labels)) % n_folds
        return folds

    def split(self, fraction: float, generator: torch.Generator) -> tuple[ColorData, ColorData]:
        """Training data and validation data, about ``fraction`` of all, both with all the names where possible.

        Raises:
            ValueError: a fraction outside 0 ... 1/2.
        """
        if not 0 < fraction <= 0.5:
            raise ValueError(f"the validation fraction must lie in (0, 0.5], got {fraction}")
        folds = self.folds(round(1 / fraction), generator)
        return self[folds != 0], self[folds == 0]


def cube_corners() -> ColorData:
    """The eight corners of the RGB cube: the small task."""
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    return ColorData(bits, torch.arange(8), CORNERS)


def color_families() -> ColorData:
    """Colours of the XKCD survey and of CSS4 (matplotlib's tables) whose name ends in a basic colour: the large task.

    The last word names the family: "bluish green" is green. Names with a stroke ("blue/green") are left out, and
    so are colours that occurred before.
    """
    found: dict[tuple[float, float, float], int] = {}
    for table in (XKCD_COLORS, CSS4_COLORS):
        for name, code in table.items():
            plain = name.removeprefix("xkcd:").replace("gray", "grey")
            family = next((index for index, word in enumerate(FAMILIES) if plain.endswith(word)), None)
            if family is not None and "/" not in plain:
                found.setdefault(to_rgb(code), family)
    return ColorData(torch.tensor(list(found)), torch.tensor(list(found.values())), FAMILIES)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """CIELAB (L*, a*, b*) of sRGB values 0 ... 1, white point D65, ``[..., 3]`` (IEC 61966-2-1; CIE 15:2004)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    matrix = torch.tensor(to_xyz, dtype=rgb.dtype)
    # relative to white, for which all rgb are 1
    ratio = linear @ matrix.T / matrix.sum(dim=1)
    edge = 6 / 29
    curved = torch.where(ratio > edge**3, ratio.clamp_min(edge**3) ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
    x, y, z = curved.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-1)


class ColorClassifier(nn.Module):
    """An MLP on RGB; its outputs are the logarithms of the names' probabilities, up to a constant.

    Args:
        names: the possible answers.
        hidden: widths of the hidden layers.
        generator: source of the initial weights.
    """

    def __init__(self, names: Sequence[str], hidden: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.names = tuple(names)
        self.network = MLP(3, len(self.names), hidden, generator=generator)

    def forward(self, rgb: Tensor) -> Tensor:
        """Logits ``[N, name]`` of colours ``[N, 3]``."""
        return self.network(2 * rgb - 1)

    def predict(self, rgb: Tensor) -> Tensor:
        """Index of the likeliest name of colours ``[N, 3]``, ``[N]``."""
        return self(rgb).argmax(dim=-1)


def train_colors(
    train: ColorData,
    validation: ColorData,
    *,
    hidden: Sequence[int] = (32, 32),
    epochs: int = 60,
    copies: int = 1,
    noise: float = 0.03,
    learning_rate: float = 1e-2,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> tuple[ColorClassifier, History]:
    """Learn the names of colours by their cross-entropy: AdamW, one-cycle schedule, batches of 64.

    Args:
        train: the colours to learn.
        validation: the colours that choose the best weights.
        hidden: widths of the hidden layers.
        epochs: number of epochs.
        copies: how often each colour is shown per epoch.
        noise: standard deviation of the noise that is added to each copy (augmentation).
        learning_rate: largest learning rate.
        generator: source of weights, order and noise; by default a new one with seed 0.
        progress: show a progress bar.

    Returns:
        The network and the history: ``loss`` and ``accuracy`` of the validation colours.

    Raises:
        ValueError: the two sets have different names, or noise, copies or learning rate make no sense.
    """
    if train.names != validation.names:
        raise ValueError("training and validation colours must have the same list of names")
    if not noise >= 0 or copies < 1 or not learning_rate > 0:
        raise ValueError(
            f"noise must be >= 0, copies >= 1 and the learning rate > 0, got {noise}, {copies} and {learning_rate}"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    model = ColorClassifier(train.names, hidden, generator)
    n_shown = copies * len(train.labels)

    def batches(_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in (torch.randperm(n_shown, generator=generator) % len(train.labels)).split(64):
            rgb = train.rgb[chosen]
            yield (rgb + noise * torch.randn(rgb.shape, generator=generator)).clamp(0, 1), train.labels[chosen]

    def validate(model: nn.Module) -> dict[str, Any]:
        logits = model(validation.rgb)
        right = logits.argmax(dim=-1) == validation.labels
        return {"loss": nn.functional.cross_entropy(logits, validation.labels), "accuracy": right.double().mean()}

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    steps = -(-n_shown // 64) * epochs
    history = fit(
        model,
        batches,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer,
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps),
        validate=validate,
        generator=generator,
        progress=progress,
    )
    return model, history


def nearest_names(known: ColorData, rgb: Tensor, *, lab: bool = False) -> Tensor:
    """The name of the nearest known colour, in RGB or in CIELAB: the baseline, ``[N]``."""
    points = (rgb_to_lab(known.rgb), rgb_to_lab(rgb)) if lab else (known.rgb, rgb)
    return known.labels[torch.cdist(points[1], points[0]).argmin(dim=1)]


def confusion_matrix(truth: Tensor, answer: Tensor, n_names: int) -> Tensor:
    """How often the name of the row was given that of the column, int64 ``[name, name]``."""
    return torch.bincount(truth * n_names + answer, minlength=n_names**2).reshape(n_names, n_names)


@dataclass(frozen=True)
class Comparison:
    """Accuracies on held-out colours.

    Attributes:
        network: of the network.
        rgb_neighbour: of the name of the nearest known colour in RGB.
        lab_neighbour: the same in CIELAB.
        confusion: the network's, ``[name, name]``.
    """

    network: float
    rgb_neighbour: float
    lab_neighbour: float
    confusion: Tensor


def compare(data: ColorData, n_folds: int, generator: torch.Generator, **settings: Any) -> Comparison:  # noqa: ANN401
    """Cross-validate network and baselines: every colour is held out once.

    An eighth of the known colours chooses the network's best weights, so the held-out ones play no part in it;
    the baselines know all of them.

    Args:
        data: the colours.
        n_folds: number of trainings.
        generator: source of all randomness.
        settings: for ``train_colors``.
    """
    folds = data.folds(n_folds, generator)
    answers = {name: torch.empty_like(data.labels) for name in ("network", "rgb", "lab")}
    for fold in range(n_folds):
        known, held_out = data[folds != fold], folds == fold
        model, _ = train_colors(*known.split(1 / 8, generator), generator=generator, **settings)
        answers["network"][held_out] = model.predict(data.rgb[held_out])
        answers["rgb"][held_out] = nearest_names(known, data.rgb[held_out])
        answers["lab"][held_out] = nearest_names(known, data.rgb[held_out], lab=True)
    network, rgb, lab = (float((answer == data.labels).double().mean()) for answer in answers.values())
    return Comparison(network, rgb, lab, confusion_matrix(data.labels, answers["network"], len(data.names)))
