"""Pictures that adapted models draw: kept with a cell, packed, and drawn as a grid."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_task import TinyTask, TinyText

from bench import plots
from bench.cell import Cell, LearningRates
from bench.packed import pack
from bench.plots import sensitivity
from bench.plots.samples import mosaic, sets
from bench.store import Store
from bench.stored import StoredCell
from optimizers import Adam
from parameterizations import LoRA, OPLoRA

pytest.importorskip("peft")


@dataclass(frozen=True)
class Drawing(TinyText):
    def task(self, seed):
        return DrawingTask(self, seed)


class DrawingTask(TinyTask):
    def pictures(self, model):
        """Ramps to compare with, and how sure the model is as a level of gray."""
        sure = model(self.parts["input_ids"][:3]).logits.softmax(-1)[:, :1, None, None]
        ramp = torch.linspace(-1, 1, 8).expand(3, 1, 6, 8)
        return {"held out": ramp, "adapted": (2 * sure - 1).expand(3, 1, 6, 8)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    for method in (LoRA(rank=2), OPLoRA(rank=2, hidden=4, embedding=5)):
        cell = Cell(Drawing(), method, Adam(), LearningRates(values=(1e-2,), extend=0), tune=(0,), report=(100, 101), steps=4)
        store.save(cell.key, cell, cell.run(), 0.0, 0.0)
    return store


def test_the_first_reporting_lane_leaves_its_pictures(store):
    keys = store.keys()
    for key in keys:
        table = StoredCell(store, key).pictures
        assert set(table["seed"]) == {100}
        assert table.groupby("set").size().to_dict() == {"adapted": 3, "held out": 3}
        found = sets(StoredCell(store, key))
        assert found["held out"][0].tolist() == [[0, 36, 73, 109, 146, 182, 219, 255]] * 6
        assert all(0 < image.mean() < 255 for image in found["adapted"])


def test_a_cell_without_pictures_has_an_empty_table(tmp_path):
    cell = Cell(TinyText(), LoRA(rank=2), Adam(), LearningRates(values=(1e-2,), extend=0), tune=(0,), report=(100,), steps=2)
    store = Store(tmp_path)
    store.save(cell.key, cell, cell.run(), 0.0, 0.0)
    assert not len(StoredCell(store, cell.key).pictures)
    assert plots.draw(store, "none", store.keys(), ["samples"]) == []
    assert not (pack(store, {"none": store.keys()}, tmp_path / "packed", store.keys()).root / "pictures.parquet").exists()


def test_packed_pictures_are_the_same(store, tmp_path):
    keys = store.keys()
    packed = pack(store, {"drawing": keys}, tmp_path, keys)
    for key in keys:
        whole, again = (sets(StoredCell(each, key)) for each in (store, packed))
        assert whole.keys() == again.keys()
        assert all(np.array_equal(a, b) for name in whole for a, b in zip(whole[name], again[name], strict=True))


def test_a_figure_has_a_row_a_method(store):
    (path, _) = plots.draw(store, "drawing", store.keys(), ["samples"])
    text = path.with_suffix(".svg").read_text()
    assert path.name == "samples-adam.png"
    assert all(f">{name}<" in text for name in ("held out", "lora", "op_lora"))


def test_a_mosaic_holds_pictures_of_both_kinds_in_rows():
    gray, red = np.full((2, 3), 7, np.uint8), np.zeros((3, 3, 3), np.uint8)
    whole, middles = mosaic([[gray, gray], [red]])
    assert whole.shape == (3 + 2 + 3, 3 + 2 + 3, 3)
    assert (whole[:2, :3] == 7).all()
    assert (whole[5:, :3] == 0).all()
    assert (whole[5:, 3:] == 255).all()
    assert middles == [1.5, 6.5]


def test_pictures_do_not_depend_on_the_budget(store, monkeypatch):
    from bench import model_runs

    monkeypatch.setattr(model_runs, "block_bytes", lambda device: 0)
    cell = Cell(Drawing(), LoRA(rank=2), Adam(), LearningRates(values=(1e-2,), extend=0), tune=(0,), report=(100, 101), steps=4)
    alone = cell.run().pictures
    assert alone["png"].tolist() == StoredCell(store, cell.key).pictures["png"].tolist()


def test_the_sensitivity_of_a_model_is_that_of_its_validation_loss(store):
    cell = StoredCell(store, store.keys()[0])
    curves = store.load(cell.key, "curves").query("role == 'tune'")
    rates, values = sensitivity.scores(cell)
    assert rates.tolist() == [1e-2]
    assert values[0, 0] == pytest.approx(cell.tuned["score"].item())
    assert values[0, 0] in curves["validation_loss"].to_numpy()
    assert sensitivity.measured_by(cell)[1] == "validation loss"
    assert sensitivity.starting_value([cell]) == pytest.approx(curves.query("step == 0")["validation_loss"].item())
