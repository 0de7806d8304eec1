"""The examples of the pages run as they stand."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bench
from optimizers import SGD, Optimizer
from parameterizations import LoRA, Parameterization
from problems import MatrixFactorization, Problem

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = {
    f"{page}: {block.splitlines()[0]}": block
    for page in ("README.md", "docs/design.md")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if "AutoModel" not in block  # tests/adapters/test_readme.py has those of real models
}
OURS = {Problem: MatrixFactorization(shape=(9, 7)), Parameterization: LoRA(2), Optimizer: SGD()}


def test_there_is_an_example_for_each_axis():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, monkeypatch):
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    module.__dict__["__name__"] = "example"
    exec(compile(EXAMPLES[name], name, "exec"), module.__dict__)
    entries = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == "example"]
    for axis, others in ((axis, OURS) for axis in OURS):
        for cls in entries:
            if issubclass(cls, axis):
                options = {"shape": (9, 7)} if axis is Problem else {"rank": 2} if axis is Parameterization else {}
                crossed = {**others, axis: cls(**options)}
                run = bench.run(*crossed.values(), lr=[0.003, 0.1], seeds=2, steps=600, probes="all")
                lowest = run.lanes.groupby("seed").best_loss.min().to_numpy()
                assert (lowest < 0.9 * run.lanes.groupby("seed").initial_loss.first().to_numpy()).all()
