"""A fresh run says whether it agrees with what is published."""

import time

import pytest

from bench import reference
from bench.cell import Cell, LearningRates
from bench.packed import pack
from bench.store import Store
from optimizers import SGD
from parameterizations import LoRA
from problems import Hilbert


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "fresh")
    for method in (LoRA(2), LoRA(1)):
        cell = Cell(Hilbert(shape=(8, 6)), method, SGD(), LearningRates(values=(0.1, 1.0)), (0, 1), (100, 101, 102), 300)
        store.save(cell.key, cell, cell.run(), time.time(), time.process_time())
    return store


def published(store, tmp_path, factor=1.0):
    packed = pack(store, {"sweep": store.keys()}, tmp_path / "published")
    for lanes in packed._tables["lanes"].values():
        lanes.loc[lanes["role"] == "report", "headline"] *= factor
    return packed


def test_the_same_results_agree(store, tmp_path):
    said = reference.said_of(store, store.keys(), published(store, tmp_path))
    assert said == ["2 of these cells are in results/reference, and all lie within its intervals"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_results_beyond_the_interval_are_named_with_both_figures(store, tmp_path, factor):
    said = reference.said_of(store, store.keys(), published(store, tmp_path, factor))
    assert said[0] == "2 of 2 cells disagree with results/reference beyond its interval:"
    assert all(key in line and "published" in line for key, line in zip(store.keys(), said[1:], strict=True))


def test_a_cell_that_diverged_disagrees_with_one_that_did_not(store, tmp_path):
    said = reference.said_of(store, store.keys(), published(store, tmp_path, float("inf")))
    assert "published inf" in said[1]


def test_nothing_is_said_of_what_is_not_published(store, tmp_path):
    packed = pack(store, {"sweep": store.keys()[:1]}, tmp_path / "published")
    assert reference.said_of(store, store.keys()[1:], packed) == []
    assert reference.published(tmp_path / "nowhere") is None
