"""Programs against the plain expressions, for every layout and every way in which lanes can share an operand."""

import itertools

import pytest
import torch

from linalg import Program
from linalg.program import UNROLLED

LEADS = [  # of a and of b
    ((), ()),
    ((3,), (3,)),
    ((2, 3), (2, 1)),
    ((2, 1), (2, 3)),
    ((2, 3), (2, 3)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((1, 3), (2, 1)),
    ((1, 1), (2, 3)),
    ((2, 3), (1, 1)),
    ((1, 4), (1, 1)),
    ((4, 1), (4, 1)),
]


def matrix(lead, rows, columns, transposed, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (*lead, columns, rows) if transposed else (*lead, rows, columns)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.mT if transposed else drawn


@pytest.mark.parametrize("leads", LEADS)
@pytest.mark.parametrize("sizes", [(4, 5, 6), (1, 5, 6), (4, 1, 6), (4, 5, 1), (1, 1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, -1.0), (0.5, 0.0), (2.0, 1.0)])
def test_a_product_is_the_product_whatever_lies_how(leads, sizes, alpha, beta):
    p, q, s = sizes
    lead = torch.broadcast_shapes(*leads)
    for layout in itertools.product((False, True), repeat=3):
        a, b = matrix(leads[0], p, q, layout[0], 1), matrix(leads[1], q, s, layout[1], 2)
        out = matrix(lead, p, s, layout[2], 3)
        program = Program()
        assert program.matmul(a, b, out, alpha=alpha, beta=beta) is out
        a.mul_(1.7)  # a program works on what is there when it runs
        b.add_(0.3)
        for _ in range(2):
            expected = alpha * (a @ b) + beta * out
            program()
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_operands_that_both_are_shared_fill_every_lane(lead):
    for layout in itertools.product((False, True), repeat=3):
        a, b, out = matrix((1,), 4, 5, layout[0], 1), matrix((), 5, 6, layout[1], 2), matrix(lead, 4, 6, layout[2], 3)
        program = Program()
        program.matmul(a, b, out)
        program()
        torch.testing.assert_close(out, (a @ b).expand(*lead, 4, 6), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", ["rates", "layers", "seeds", "none"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_leading_dimensions_may_lie_in_any_order(shared, beta):
    lead = {"rates": (2, 1, 4), "layers": (2, 3, 1), "seeds": (4,), "none": (2, 3, 4)}[shared]
    for layout in itertools.product((False, True), repeat=3):
        a = matrix((2, 4, 3), 5, 6, layout[0], 1).movedim(1, 2)  # (seeds, rates, layers), the rates next to each other
        b = matrix(lead, 6, 7, layout[1], 2)
        out = matrix((2, 4, 3), 5, 7, layout[2], 3).movedim(1, 2)
        program = Program()
        program.matmul(a, b, out, beta=beta)
        own = program.matmul(b.mT, a.mT)
        expected = a @ b + beta * out
        program()
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own, b.mT @ a.mT, rtol=1e-12, atol=1e-12)


def test_rates_share_a_layers_matrix_in_one_call():
    lanes, target = torch.randn(2, 4, 3, 5, 6).movedim(1, 2), torch.randn(2, 1, 4, 6, 7)
    program = Program()
    product = program.matmul(lanes, target)
    assert len(program.operations) == 1
    assert program.operations[0].args[0].shape == (8, 15, 6)
    assert product.shape == (2, 3, 4, 5, 7)


@pytest.mark.parametrize("size", [(1, 90, 100), (100, 90, 1)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_large_matrix_times_a_vector_is_the_same_lane_by_lane(size, transposed, beta):
    p, q, s = size
    assert UNROLLED < 90 * 100
    a, b = (matrix((2, 3), *shape, transposed, seed) for seed, shape in enumerate(((p, q), (q, s))))
    out = matrix((2, 3), p, s, False, 3)
    expected = a @ b + beta * out
    program = Program()
    program.matmul(a, b, out, beta=beta)
    program()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_rates_that_share_a_matrix_take_one_call_a_block():
    lanes, target = torch.randn(2, 5, 3, 7), torch.randn(2, 1, 7, 4)
    program = Program()
    program.matmul(lanes, target)
    assert len(program.operations) == 1
    assert program.operations[0].args[0].shape == (2, 15, 7)
    assert program.memory[0].shape == (2, 5, 3, 4)
    assert program.bytes == 2 * 5 * 3 * 4 * 4


def test_nothing_is_allocated_by_a_run():
    a, b = torch.randn(4, 6, 6), torch.randn(4, 6, 6)
    program = Program()
    program.matmul(program.matmul(a, b), a.mT, beta=0.0)
    places = [tensor.data_ptr() for tensor in program.memory]
    program()
    program()
    assert [tensor.data_ptr() for tensor in program.memory] == places
    torch.testing.assert_close(program.memory[-1], a @ b @ a.mT)


def test_a_place_with_gaps_between_lanes_is_refused_rather_than_missed():
    gaps = torch.zeros(2, 3, 8, 4)[:, :, :5]
    with pytest.raises(RuntimeError):
        Program().matmul(torch.randn(2, 3, 5, 6), torch.randn(2, 1, 6, 4), gaps)


class Replayed:
    """Stands for a graph: remembers that it was asked to capture, and repeats."""

    def __init__(self):
        self.captured = self.replayed = 0

    def __call__(self, run):
        self.captured += 1

        def replay():
            self.replayed += 1
            run()

        return replay


def test_a_program_is_captured_after_its_warm_up_and_every_run_counts_once():
    total, graph, program = torch.zeros(()), Replayed(), Program()
    program.do(total.add_, 1)
    program.capture(graph, warm_up=3)
    for runs in range(1, 8):
        program()
        assert total == runs
    assert (graph.captured, graph.replayed) == (1, 4)


def test_what_may_change_from_run_to_run_is_never_captured():
    graph, program, seen = Replayed(), Program(), []
    program.do(torch.zeros(()).add_, 1)
    program.decide(lambda: seen.append(len(seen)))
    program.capture(graph, warm_up=0)
    program()
    program()
    assert seen == [0, 1]
    assert graph.captured == 0
