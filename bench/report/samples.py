"""Pictures that models drew, as the page holds them: few, small, and those that all methods share once a problem."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from bench.plots.samples import ADAPTED, COLUMNS
from bench.stored import StoredCell

LARGEST = 128  # pixels a side: ten of a large model's would be megabytes


def samples_of(cells: Mapping[int, StoredCell]) -> dict[str, Any] | None:
    """Rows of pictures as data URIs, at most `COLUMNS` each; None where no cell has any.

    Returns:
        `shared`, rows that do not depend on the method, by what they are; `seed`, theirs; `own`, by the method's place the row
        that it drew, with the seed and how that run ended; `side`, of the largest picture in pixels.
    """
    rows = {i: rows_of(cell) for i, cell in cells.items() if len(cell.pictures)}
    if not rows:
        return None
    seeds = {i: int(cells[i].pictures["seed"].iloc[0]) for i in rows}
    seed = next(iter(seeds.values()))
    shared: dict[str, list[bytes]] = {}
    for i, found in rows.items():
        if seeds[i] == seed:  # another seed's are of another noise
            shared = {name: images for name, images in found.items() if name != ADAPTED} | shared
    own = {i: {**first_run(cell), "pictures": list(map(uri, rows.get(i, {}).get(ADAPTED, [])))} for i, cell in cells.items()}
    side = max(side_of(image) for found in rows.values() for images in found.values() for image in images)
    return {"seed": seed, "side": side, "shared": {name: list(map(uri, images)) for name, images in shared.items()}, "own": own}


def rows_of(cell: StoredCell) -> dict[str, list[bytes]]:
    """The first of a cell's pictures as PNG, none of them large, by set."""
    table = cell.pictures.sort_values("index", kind="stable")
    return {
        str(name): [small(png) for png in table.loc[table["set"] == name, "png"][:COLUMNS]]
        for name in cell.pictures["set"].unique()
    }


def first_run(cell: StoredCell) -> dict[str, Any]:
    """The first reporting seed, which is the one whose pictures are kept, and how it ended."""
    reported = cell.reported
    if not len(reported):  # no rate was left to report at
        return {"seed": None, "status": "diverged"}
    return {"seed": int(reported["seed"].iloc[0]), "status": str(reported["status"].iloc[0])}


def small(png: bytes) -> bytes:
    """The picture, brought to `LARGEST` pixels where it is larger."""
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    if max(image.size) <= LARGEST:
        return png
    image.thumbnail((LARGEST, LARGEST))
    written = io.BytesIO()
    image.save(written, "png")
    return written.getvalue()


def side_of(png: bytes) -> int:
    """The longer side of a picture, in pixels."""
    from PIL import Image

    return max(Image.open(io.BytesIO(png)).size)


def uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
