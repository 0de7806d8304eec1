"""What generative models draw once they are adapted."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.plots.layout import finish, frame, name_panel, say
from bench.plots.sheet import sheet
from bench.plots.sweep import Panel
from bench.plots.words import wrapped
from bench.stored import StoredCell

ADAPTED = "adapted"  # the set that is the method's own; others are the same for all of them
COLUMNS, GAP = 10, 2  # pictures a row, and pixels between them
NARROWEST, LABELS = 5.0, 1.3  # inches of a panel, and of them beside the pictures


def figures(optimizer: str, panels: Sequence[Panel]) -> dict[str, Figure]:
    """A row of pictures for each method, of one noise, below pictures held out and those of the pretrained model; nothing where no
    problem has any."""
    shown = [panel for panel in panels if any(len(line.cell.pictures) for line in panel.lines)]
    if not shown:
        return {}
    rows = [rows_of(panel) for panel in shown]
    across, width, _ = sheet().grid(len(shown), NARROWEST)
    tallest = max(len(each) for each in rows) / COLUMNS * (width - LABELS)
    figure, grid = frame(len(shown), narrowest=NARROWEST, insides=[tallest] * -(-len(shown) // across))
    for axes, panel, named in zip(grid, shown, rows, strict=True):
        name_panel(axes, panel.title, "a column is of one noise, but for what is held out")
        if not named:
            say(axes, "no pictures")
            continue
        image, middles = mosaic([images for _, images in named])
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
        axes.set(xticks=[], yticks=[])
        axes.set_yticks(middles, [wrapped(name, LABELS, sheet().text) for name, _ in named])
        axes.tick_params(length=0)
        axes.set_anchor("N")
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    reading = "The first reporting seed's, after training at the learning rate that tuning chose."
    finish(figure, f"Samples of models adapted with {optimizer}", reading, [])
    return {"samples": figure}


def rows_of(panel: Panel) -> list[tuple[str, list[np.ndarray]]]:
    """What stands beside a row, and its pictures: what all methods share first, from whichever has it."""
    shared: dict[str, list[np.ndarray]] = {}
    own: list[tuple[str, list[np.ndarray]]] = []
    for line in panel.lines:
        for name, images in sets(line.cell).items():
            if name == ADAPTED:
                own.append((line.label, images))
            else:
                shared.setdefault(name, images)
    return [*shared.items(), *own]


def sets(cell: StoredCell) -> dict[str, list[np.ndarray]]:
    """A cell's pictures by set, each (h, w) or (h, w, 3) from 0 to 255."""
    from PIL import Image

    if not len(cell.pictures):
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for name, png in zip(cell.pictures["set"], cell.pictures["png"], strict=True):
        found.setdefault(name, []).append(np.asarray(Image.open(io.BytesIO(png))))
    return found


def mosaic(rows: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, list[float]]:
    """Rows of pictures as one, white between them, and where the middle of each row is."""
    side = max(max(image.shape[:2]) for images in rows for image in images)
    coloured = any(image.ndim == 3 for images in rows for image in images)
    columns = min(COLUMNS, max(map(len, rows)))
    shape = (len(rows) * (side + GAP) - GAP, columns * (side + GAP) - GAP, *([3] if coloured else []))
    whole = np.full(shape, 255, dtype=np.uint8)
    for i, images in enumerate(rows):
        for j, image in enumerate(images[:columns]):
            picture = image[..., None] if coloured and image.ndim == 2 else image
            top, left = i * (side + GAP), j * (side + GAP)
            whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole, [i * (side + GAP) + side / 2 for i in range(len(rows))]
