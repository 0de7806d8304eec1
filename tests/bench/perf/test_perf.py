"""The speed measurement: contestants that compute the same, limits that are counted right, tables that survive."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import overhead
from bench.perf import cells, command, figures, limits, table
from bench.perf.cells import METHODS, RULES, Cell, flops, trainable_entries, update_bytes
from bench.perf.contest import Contest, DisagreementError, Timing
from bench.perf.engine import Engine
from bench.perf.loop import Loop
from bench.perf.scaling import speed_up
from bench.store import Store

SHAPES = {"square": (48, 48, 4), "tall": (60, 40, 4), "wide": (36, 64, 4), "not thin": (12, 12, 4)}
LIMITS = {"gemm_float32": 1e11, "gemm_float64": 5e10, **{f"triad_{size}": 1e11 / 2**i for i, size in enumerate(limits.TRIADS)}}
AGREED = [
    *(Cell(method, rule, 40, 28, 4, "float64", seeds=2, rates=3) for method in METHODS for rule in RULES),
    *(Cell(method, rule, 10, 12, 4, "float64", seeds=2, rates=2) for method in METHODS for rule in RULES),
    *(Cell(method, "adam", 48, 48, 4, "float64", "cpu", share, 2, 2) for method in METHODS[:3] for share in (0.3, 0.04)),
]
JAX_AGREED = [
    *(Cell(method, "adam", 40, 28, 4, "float64", seeds=2, rates=3) for method in METHODS),
    *(Cell("lora", "sgd", 48, 48, 4, "float64", "cpu", share, 2, 2) for share in (0.3, 0.04)),
]


def after(work, steps):
    built = [work.build(block, steps) for block in work.blocks]
    for block in built:
        work.advance(block, steps)
    return np.concatenate([work.weights(block) for block in built])


def distance(cell, one, other):
    """How far two ends are apart, relative to what the weight moved, at the worst lane."""
    moved = np.linalg.norm(after(Loop(cell), 20) - after(Loop(cell), 0), axis=(1, 2))
    return (np.linalg.norm(one - other, axis=(1, 2)) / moved).max()


def ids(cell):
    return cell.name


@pytest.mark.parametrize("cell", AGREED, ids=ids)
def test_the_plain_loop_and_the_engine_end_at_the_same_weights(cell):
    assert distance(cell, after(Engine(cell), 20), after(Loop(cell), 20)) < 1e-7


@pytest.mark.parametrize("cell", JAX_AGREED, ids=ids)
def test_jax_ends_there_too_by_its_own_gradient_and_by_the_engines_algebra(cell):
    pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    from bench.perf import jax_scan

    jax_scan.start("cpu")
    expected = after(Loop(cell), 20)
    contestants = ["jax", "jax_gram"] if cells.has_other_algebra(cell) else ["jax"]
    for contestant in contestants:
        assert distance(cell, after(next(jax_scan.works(cell, contestant)), 20), expected) < 1e-7


def test_jax_in_blocks_ends_where_it_does_with_all_lanes_together():
    pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    from bench.perf import jax_scan

    jax_scan.start("cpu")
    cell = Cell("lora", "sgd", 40, 28, 4, "float64", seeds=2, rates=4)
    together, *blocks = jax_scan.works(cell, "jax")
    assert [len(work.blocks) for work in blocks] == [2, 8]
    for work in blocks:
        np.testing.assert_allclose(after(work, 5), after(together, 5), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", ["lora", "deep_lora", "deep"])
def test_flops_are_those_that_torch_counts_in_the_gradient(method, shape):
    cell = Cell(method, "sgd", *shape, seeds=1, rates=1)
    params = {name: tensor.requires_grad_() for name, tensor in cell.start[0].items()}
    with FlopCounterMode(display=False) as counter:
        weight = cell.method.weight(params)
        cotangents = cell.instances[0].gradient(weight)
        torch.autograd.grad(weight.parts, list(params.values()), cotangents)
    for tensor in params.values():
        tensor.requires_grad_(False)
    assert flops(cell) == counter.get_total_flops()


def test_flops_of_lora_are_those_of_the_formula():
    assert flops(Cell("lora", "sgd", 100, 100, 10)) == 4 * 100 * 100 * 10 + 4 * 200 * 10**2
    assert flops(Cell("lora", "sgd", 12, 12, 4)) == 6 * 12 * 12 * 4
    assert flops(Cell("lora", "sgd", 512, 512, 16, observed=0.2)) == 6 * 512 * 512 * 16
    assert flops(Cell("lora", "sgd", 512, 512, 16, observed=0.02)) == 6 * int(0.02 * 512 * 512) * 16


def test_every_entry_of_op_loras_layers_costs_two_operations_forward_and_four_back():
    cell = Cell("op_lora", "sgd", 60, 40, 4, seeds=1)
    layers = sum(tensor.numel() for name, tensor in cell.start[0].items() if name.endswith("weight"))
    assert flops(cell) == flops(replace(cell, parameterization="lora")) + 6 * layers


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_an_update_moves_every_trained_entry_and_its_moments(method, shape):
    cell = Cell(method, "adam", *shape, dtype="float64", seeds=1)
    entries = sum(tensor.numel() for tensor in cell.start[0].values())
    assert trainable_entries(cell) == entries
    assert update_bytes(cell) == 7 * 8 * entries
    assert update_bytes(replace(cell, optimizer="sgd")) == 3 * 8 * entries


def test_lanes_are_capped_where_they_would_take_too_much():
    lanes = {cell.name: cell.lanes for cell in cells.full("cpu")}
    assert len(lanes) == 92
    assert lanes["matrix_factorization lora sgd 100x100 r10 float32"] == 128
    assert lanes["matrix_factorization deep adam 1024x1024 r16 float64"] == 1
    assert all(count & (count - 1) == 0 for count in lanes.values())


def test_limits_are_rates_of_this_machine():
    assert limits.gemm((64, 64, 64), "float64", "cpu") > 1e8
    assert limits.triad(1 << 16, "cpu") > 1e8


def timings(us):
    return {name: Timing(value, 4, 0.1, 1.0, 1.0) for name, value in us.items()}


def test_a_row_sets_every_contestant_against_the_engine_and_the_engine_against_the_limits():
    cell = Cell("lora", "sgd", 100, 100, 10)
    line = table.row(cell, timings({"engine": 10.0, "loop": 150.0, "jax": 20.0, "jax_gram": 5.0}), LIMITS)
    assert (line["loop_ratio"], line["jax_ratio"], line["jax_gram_ratio"]) == (15, 2, 0.5)
    assert line["arithmetic_us"] == pytest.approx(4.8)
    assert line["bandwidth_us"] == pytest.approx(0.24)
    assert (line["bound"], line["fraction"]) == ("arithmetic", pytest.approx(0.48))
    alone = table.row(cell, timings({"engine": 10.0, "loop": 150.0}), LIMITS)
    assert alone["jax_us"] is None


def test_a_state_that_leaves_the_cache_moves_at_the_rate_beyond_it():
    small, large = Cell("op_lora", "adam", 100, 100, 10), Cell("op_lora", "adam", 512, 512, 16)
    assert cells.state_bytes(small) < 1 << 20
    assert 4 << 20 < cells.state_bytes(large) < 16 << 20
    assert table.row(small, timings({"engine": 1.0}), LIMITS)["bandwidth_us"] == pytest.approx(update_bytes(small) / 1e5)
    assert table.row(large, timings({"engine": 1.0}), LIMITS)["bandwidth_us"] == pytest.approx(update_bytes(large) / 5e4)


def test_what_a_killed_run_kept_stays_until_its_cell_is_measured_again(tmp_path):
    first, second = Cell("lora", "sgd", 100, 100, 10), Cell("lora", "adam", 100, 100, 10)
    rows = table.Rows(tmp_path / "table.csv")
    rows.add(table.row(first, timings({"engine": 10.0, "loop": 150.0}), LIMITS))
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    again = table.Rows(tmp_path / "table.csv")
    again.add(table.row(second, timings({"engine": 11.0}), LIMITS))
    again.add(table.row(first, timings({"engine": 9.0}), LIMITS))
    stored = pd.read_csv(tmp_path / "table.csv")
    assert dict(zip(stored["optimizer"], stored["engine_us"], strict=True)) == {"sgd": 9.0, "adam": 11.0}
    assert table.Rows(tmp_path / "table.csv", fresh=True).frame.empty


def test_rows_of_another_machine_are_not_mixed_in(tmp_path):
    found = table.machine("cpu", LIMITS)
    assert not table.keep_machine(tmp_path, found)
    assert table.keep_machine(tmp_path, found | {"load_average": [9, 9, 9]})
    assert not table.keep_machine(tmp_path, found | {"torch": "1.0"})
    assert json.loads((tmp_path / "machine.json").read_text())["bandwidth_gbs"]["4 MiB"] == 50.0


class Stub:
    """A worker whose weights are off by a given amount."""

    def __init__(self, off):
        self.off = off

    def ask(self, action, contestant, cell, steps):
        return np.full((cell.lanes, 2, 2), float(steps) + self.off * bool(steps))


def test_a_disagreement_is_an_error_that_names_the_cell_and_the_figure():
    contest = Contest.__new__(Contest)
    contest.workers = {"engine": Stub(0.0), "loop": Stub(1e-6)}
    cell = Cell("lora", "sgd", 100, 100, 10, "float64")
    with pytest.raises(DisagreementError, match=r"lora sgd 100x100 r10 float64: after 20 steps loop is 5\.0e-08 of what moved"):
        contest.check(cell)
    contest.workers["loop"] = Stub(1e-8)
    assert contest.check(cell)["loop"] == pytest.approx(5e-10)


def test_figures_name_their_lines_and_leave_out_who_was_not_measured(tmp_path):
    def measured(made, names):
        return pd.DataFrame([table.row(cell, timings({name: 10.0 + i for i, name in enumerate(names)}), LIMITS) for cell in made])

    drawn = figures.draw_lanes(measured(figures.lane_cells("cpu", quick=True), ("engine", "loop", "jax", "jax_gram")), tmp_path)
    drawn += figures.draw_sizes(measured(figures.size_cells("cpu", quick=True), ("engine", "loop")), tmp_path)
    assert [path.name for path in drawn] == ["lanes.png", "lanes.svg", "sizes.png", "sizes.svg"]
    lanes, sizes = ((tmp_path / f"{name}.svg").read_text() for name in ("lanes", "sizes"))
    assert all(text in lanes for text in ("engine", "torch loop", "JAX", "µs a lane and step"))
    assert "limit" in sizes
    assert "JAX" not in sizes


def test_a_quick_run_of_one_cell_leaves_a_table_and_the_machine(tmp_path, capfd, monkeypatch):
    small = Cell("lora", "sgd", 32, 32, 4, seeds=2, rates=16)
    monkeypatch.setattr(cells, "quick", lambda device: [small, Cell("deep", "sgd", 32, 32, 4)])
    assert command.main(["--quick", "--cells", "lora", "--output", str(tmp_path)]) == 0
    (line,) = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    assert line["lanes"] == 32
    assert 0 < line["engine_us"] < line["loop_us"]
    assert 0 < line["fraction"] < 1.5
    assert json.loads((tmp_path / "machine.json").read_text())["torch"] == torch.__version__
    assert "lora sgd 32x32 r4 float32" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine.json", "table.csv"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_in_one_line(capsys, tmp_path):
    assert command.main(["--device", "cuda", "--output", str(tmp_path / "perf")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("device=cuda: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "perf").exists()


@pytest.mark.parametrize("pattern", ["(", "no such cell"])
def test_cells_that_match_nothing_are_refused_in_one_line(capsys, pattern):
    assert command.main(["--quick", "--cells", pattern]) == 2
    assert capsys.readouterr().err.startswith(f"cells={pattern!r}: ")


def test_what_surrounds_the_steps_is_said_from_the_stored_sweep(tmp_path):
    options = command.parser().parse_args(["--quick", "--results", str(tmp_path)])
    (line,) = command.around(options)
    assert line.startswith("make bench: not timed in")
    timing = overhead.Timing(wall=100.0, figures=4.0, workers=2, ran=3, steps=160.0, probes=10.0)
    Store(tmp_path).write_sweep("default", ["a"], [], "", timing.record())
    (line,) = command.around(options)
    assert line == "make bench: 20% of 100 s on 2 processes were outside the step loop (probes 5 s, figures 4 s)"


@pytest.mark.slow
def test_a_second_core_does_nearly_as_much_again():
    gain = speed_up()
    assert gain is None or 1.0 < gain < 2.2  # 1.7 is for an idle machine
