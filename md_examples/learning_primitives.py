"""How the LDOS networks learn, on models small enough to look at: a perceptron, and networks for colours.

Run: python learning_primitives.py [FOLDER]. Writes perceptron.png, colors.png, confusion.png and color_regression.png
(under a minute).
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import hsv_to_rgb, to_rgb

from ase_ldos.learning_primitives.color_regression import rgb_to_cmyk, train_regressor
from ase_ldos.learning_primitives.colors import FAMILIES, color_families, compare, nearest_names, train_colors
from ase_ldos.learning_primitives.perceptron import train_perceptron

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
random = torch.Generator().manual_seed(1)

# Two clouds of points, 150 examples each; the perceptron learns which cloud a point belongs to.
upper = torch.arange(300) % 2
x = torch.randn(300, 2, generator=random) * 0.6 + (2 * upper - 1)[:, None] * torch.tensor([1.0, 0.5])
boundaries = []
record = [lambda model, _: boundaries.append(model.decision_boundary())]
perceptron, history = train_perceptron(
    x, upper, "logistic", learning_rate=0.5, epochs=200, scale=1.0, generator=random, callbacks=record
)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.loglog(range(1, 201), history.column("loss", validation=True), label="loss L")
left.loglog(range(1, 201), [1 - a for a in history.column("accuracy", validation=True)], label="share of mistakes")
left.set(xlabel="epoch", title="Learning", ylim=(0.01, 1))
left.legend()
right.scatter(*x.T, c=upper, cmap="coolwarm", s=8)
for epoch in (1, 2, 5, 10, 20, 50, 200):
    normal, distance = boundaries[epoch - 1]
    foot, along = distance * normal, torch.stack((-normal[1], normal[0])) * 9
    shade = plt.colormaps["viridis_r"](torch.tensor(epoch).log2().item() / 8)
    right.plot(*torch.stack((foot - along, foot + along)).T, color=shade, label=f"epoch {epoch}")
right.set(xlim=(-3, 3), ylim=(-3, 3), xlabel="$x_1$", ylabel="$x_2$", title="Decision boundary")
right.legend(fontsize=7, loc="lower right")
figure.savefig(folder / "perceptron.png", dpi=150)
print(f"Perceptron: accuracy {history.column('accuracy', validation=True)[-1]:.3f}, loss {history.best:.4f}")

# The colours that people in a survey called "dark green", "reddish brown" ...: 11 families, each colour held out once.
colors = color_families()
result = compare(colors, 5, random, progress=True)
print(f"Colours: accuracy on {len(colors.labels)} held-out colours {result.network:.3f}")
print(f"  nearest known colour in RGB {result.rgb_neighbour:.3f}, in CIELAB {result.lab_neighbour:.3f}")
figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
axes.imshow((result.confusion / result.confusion.sum(dim=1, keepdim=True)).numpy(), cmap="Blues")
for row, column in result.confusion.nonzero().tolist():
    style = {"color": "white" if row == column else "black", "ha": "center", "va": "center", "fontsize": 7}
    axes.text(column, row, int(result.confusion[row, column]), **style)
axes.set_xticks(range(11), FAMILIES, rotation=90)
axes.set_yticks(range(11), FAMILIES)
axes.set(xlabel="answer", ylabel="truth", title="Held-out colours")
figure.savefig(folder / "confusion.png", dpi=150)

# The colour plane as it is, as the network names it, and as the nearest colour of the survey is named.
network, history = train_colors(*colors.split(1 / 8, random), generator=random, progress=True)
hue, value = torch.meshgrid(torch.linspace(0, 1, 300), torch.linspace(0, 1, 200), indexing="xy")
figure, rows = plt.subplots(2, 3, figsize=(11, 5), layout="constrained")
for row, saturation in zip(rows, (1.0, 0.4)):
    plane = torch.tensor(hsv_to_rgb(torch.stack((hue, torch.full_like(hue, saturation), value), dim=-1).numpy()))
    paint = torch.tensor([to_rgb(name) for name in FAMILIES])
    answer = paint[network.predict(plane.reshape(-1, 3))].reshape(plane.shape)
    neighbour = paint[nearest_names(colors, plane.reshape(-1, 3), lab=True)].reshape(plane.shape)
    for axes, picture in zip(row, (plane, answer, neighbour)):
        axes.imshow(picture.numpy(), origin="lower", aspect="auto", extent=(0, 360, 0, 1))
        axes.set(xlabel="hue (°)", ylabel=f"value (saturation {saturation})")
for axes, title in zip(rows[0], ("colour", "the network's answer", "nearest survey colour (CIELAB)")):
    axes.set_title(title)
figure.savefig(folder / "colors.png", dpi=150)

# Colours as numbers: RGB to itself, through many hidden units and through two, and RGB to the inks of a printer.
square = torch.stack(torch.meshgrid(torch.linspace(0, 1, 120), torch.linspace(0, 1, 120), indexing="xy"), dim=-1)
slice_ = torch.cat((square, torch.full((120, 120, 1), 0.3)), dim=-1).reshape(-1, 3)  # all red and green, blue 0.3
figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), layout="constrained")
pictures = {"RGB, blue 0.3": slice_}
for name, target, hidden in (
    ("identity", "rgb", (16,)),
    ("through two units", "rgb", (2,)),
    ("inks", "cmyk", (32, 32)),
):
    regressor, history = train_regressor(target, hidden=hidden, epochs=15, generator=random, progress=True)
    print(f"Colours to {target}, hidden units {hidden}: root mean square error {history.best:.4f}")
    with torch.no_grad():
        pictures[name] = regressor(slice_).clamp(0, 1)
inks = pictures.pop("inks")
for axis, (title, picture) in zip(axes[0], pictures.items()):
    axis.imshow(picture.reshape(120, 120, 3).numpy(), origin="lower", extent=(0, 1, 0, 1))
    axis.set(xlabel="red", ylabel="green", title=title)
axes[0, 3].axis("off")
for axis, title, right_ink, ink in zip(axes[1], "CMYK", rgb_to_cmyk(slice_).T, inks.T):
    axis.imshow(ink.reshape(120, 120).numpy(), origin="lower", extent=(0, 1, 0, 1), cmap="Greys", vmin=0, vmax=1)
    axis.contour(
        *square.permute(2, 0, 1).numpy(), right_ink.reshape(120, 120).numpy(), levels=(0.25, 0.5, 0.75), colors="C3"
    )
    axis.set(xlabel="red", ylabel="green", title=f"{title} (lines: exact)")
figure.savefig(folder / "color_regression.png", dpi=150)
names = ("perceptron.png", "confusion.png", "colors.png", "color_regression.png")
print(f"Pictures: {', '.join(str(folder / name) for name in names)}")
