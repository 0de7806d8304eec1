"""What one Hydra job does: build its cell, run it unless it is there, keep what comes out."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from bench import config as configuration
from bench import process
from bench.catalogue import check_cell
from bench.progress import Board, Post
from bench.store import BusyError, Store
from linalg import InputError
from linalg.checks import check_choice

PAGE = "report"  # among the figures: the page of a sweep


def job(config: DictConfig) -> float | None:
    """Run the cell of this configuration and return its median score on the reporting seeds, for sweepers that optimize.

    A bad value and a failure are posted where they happen, then raised. A cell that another process is running is left to it.
    """
    process.prepare()
    board = Board.current()
    key = " ".join(f"{axis}={config[axis].get('_target_')}" for axis in ("problem", "parameterization", "optimizer"))

    def post(state: str, message: str = "", share: float = 0.0, found: float = 0.0) -> None:
        if board is not None:
            board.post(Post(key, state, message, share, found))

    try:
        cell = configuration.cell(config)
        key = cell.key
        check_figures(config.figures)
        check_choice("force", config.force, (True, False))
        try:
            check_cell(cell.problem, cell.optimizer, cell.parameterization)
        except InputError as error:
            post("refused", str(error))
            return None
        store = Store(Path(config.results))
        with store.lock(key, wait=board is None or board.waits):
            if store.done(key) and not config.force:
                post("kept")
            else:
                post("running")
                if config.force:  # lanes of a run that was cut off are not taken over
                    shutil.rmtree(store.lanes(key), ignore_errors=True)
                started, cpu_started = time.time(), time.process_time()
                try:
                    result = cell.run(lambda share, found: post("running", share=share, found=found), store.lanes(key))
                except InputError:
                    raise
                except Exception as error:
                    path = store.save_failure(key, cell, error)
                    post("failed", f"{key}: {type(error).__name__}: {error} (traceback in {path})")
                    raise
                store.save(key, cell, result, started, cpu_started)
                post("done")
            lanes = store.load(key, "lanes")
            return float(lanes.loc[lanes["role"] == "report", "score"].median())
    except BusyError:
        post("busy")
        return None
    except InputError as error:
        post("invalid", str(error))
        raise
    except OSError as error:
        post("failed", f"{key}: {describe(error)}")
        raise


def check_figures(figures: Sequence[str]) -> None:
    """Raise `InputError` for a figure that nobody could draw once the sweep is done."""
    if isinstance(figures, str):
        raise InputError(f"figures={figures}: must be a list, such as [{figures}]")
    if figures:
        from bench.plots import FIGURES

        for figure in figures:
            check_choice("figures", figure, [*FIGURES, PAGE])


def describe(error: OSError) -> str:
    """An operating system's error in one line."""
    if error.errno is None:  # a library's own
        return " ".join(str(error).split())
    return f"cannot write {error.filename or 'the results'}: {error.strerror or error}"
