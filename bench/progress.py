"""Progress of a sweep: jobs post what they do to a folder, and the parent process shows it and what is left."""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.catalogue import entries

BOARD = "LOWRANK_BENCH_BOARD"  # environment variable with the folder's path, inherited by worker processes
FREE = ("kept", "invalid", "refused", "busy")  # finished without work
FINISHED = ("done", "failed", *FREE)
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
)


@dataclass(frozen=True)
class Post:
    """One line that a job leaves: the cell, what happened to it, and a message.

    Args:
        share: of its work that is done while it runs.
        found: the part of that which an earlier run had left.
    """

    key: str
    state: str
    message: str = ""
    share: float = 0.0
    found: float = 0.0


class Board:
    """A folder with one file a process; lines are appended whole, so that nobody waits for anybody."""

    own: ClassVar[Path | None] = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, int] = {}
        self._latest: dict[str, Post] = {}

    @classmethod
    def create(cls) -> "Board":
        """An empty board that this process and its children post to.

        Every board of a process has the same path: workers that a second sweep takes over keep the environment of the first.
        """
        cls.own = cls.own or Path(tempfile.mkdtemp(prefix="lowrank-bench-"))
        shutil.rmtree(cls.own, ignore_errors=True)
        cls.own.mkdir(mode=0o700)
        os.environ[BOARD] = str(cls.own)
        return cls(cls.own)

    @classmethod
    def current(cls) -> "Board | None":
        return cls(Path(os.environ[BOARD])) if os.environ.get(BOARD) and Path(os.environ[BOARD]).is_dir() else None

    @property
    def waits(self) -> bool:
        """Whether jobs are to wait for cells that another process is running, instead of leaving them to it.

        A file says so, because worker processes that are used again keep the environment that they started with.
        """
        return (self.folder / "wait").exists()

    def wait(self) -> None:
        (self.folder / "wait").touch()

    def post(self, post: Post, name: str | None = None) -> None:
        """Leave a line in this process's file, or in the one of that name."""
        with open(self.folder / f"{name or os.getpid()}.jsonl", "a") as handle:
            handle.write(json.dumps(post.__dict__) + "\n")

    def sweep(self) -> dict[str, Any] | None:
        """What the sweep as a whole was asked for: name, results, figures, and how many jobs it is; None if it never began."""
        path = self.folder / "sweep.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None

    def processes(self) -> int:
        """How many have posted jobs of theirs."""
        return len(list(self.folder.glob("[0-9]*.jsonl")))

    def latest(self) -> dict[str, Post]:
        """The last state of every cell; reads what is new since the last call."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path) as handle:
                handle.seek(self._read.get(path, 0))
                while (line := handle.readline()).endswith("\n"):
                    post = Post(**json.loads(line))
                    self._latest[post.key] = post
                    self._read[path] = handle.tell()
        return dict(self._latest)


class SweepProgress(Callback):
    """Hydra callback: starts a `Watcher` with the sweep. It holds nothing itself, because launchers send it to their workers."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        board = Board.current()
        if board is None:
            return
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        jobs = count_jobs(params, list(config.hydra.overrides.task))
        asked = {
            "name": config.hydra.runtime.choices.get("experiment") or "sweep",
            "results": str(config.results),
            "figures": list(config.figures),
            "jobs": jobs,
        }
        (board.folder / "sweep.json").write_text(json.dumps(asked))
        Watcher.start(board, jobs)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        Watcher.stop()


class Watcher:
    """A thread that shows cells done, running and failed, with the time that is left."""

    current: ClassVar["Watcher | None"] = None

    def __init__(self, board: Board, total: int) -> None:
        self.board, self.total, self.console = board, total, Console(stderr=True)
        self.pace = Pace(total)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    @classmethod
    def start(cls, board: Board, total: int) -> None:
        cls.current = Watcher(board, total)
        cls.current.thread.start()

    @classmethod
    def stop(cls) -> None:
        """Draw a last time and leave the terminal alone."""
        if cls.current is not None:
            cls.current.stopped.set()
            cls.current.thread.join(timeout=5)
            cls.current = None

    def watch(self) -> None:
        """Redraw twice a second until told to stop; without a terminal, print a line every half minute."""
        live = self.console.is_terminal
        said: set[str] = set()
        started = last_line = time.monotonic()
        with Progress(
            *COLUMNS, TextColumn("{task.fields[left]}"), console=self.console, transient=True, disable=not live
        ) as progress:
            task = progress.add_task("cells", total=self.total, left="")
            while True:
                last = self.stopped.wait(0.5)
                latest = self.board.latest()
                for post in latest.values():
                    if post.state in ("failed", "invalid", "refused") and post.message not in said:
                        said.add(post.message)
                        progress.console.print(f"{post.state}: {post.message}", markup=False, highlight=False, soft_wrap=True)
                running = [post for post in latest.values() if post.state == "running"]
                finished = sum(post.state in FINISHED for post in latest.values())
                done = finished + sum(post.share for post in running)
                names = " ".join(post.key.rpartition("-")[0] for post in running[:2])
                left = self.pace.left(time.monotonic() - started, latest.values())
                progress.update(task, completed=round(done, 2), description=names or "cells", left=left)
                if not live and time.monotonic() - last_line > 30 and not last:
                    last_line = time.monotonic()
                    print(", ".join([f"{finished} of {self.total} cells", *filter(None, [left])]), file=sys.stderr, flush=True)
                if last:
                    return


class Pace:
    """How long the rest of a sweep takes at the pace so far, which does not count what earlier runs had left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.found: dict[str, float] = {}  # of the cells that ran, the share that an earlier run had left

    def left(self, seconds: float, latest: Iterable[Post]) -> str:
        """The minutes left, `seconds` after the start, for the log; nothing before there was work to go by."""
        done = worked = 0.0
        for post in latest:
            if post.state == "running":
                self.found[post.key] = post.found
            share = post.share if post.state == "running" else 1.0
            done += share
            worked += 0.0 if post.state in FREE else share - self.found.get(post.key, 0.0)
        if worked <= 0:
            return ""
        return f"about {seconds * max(self.total - done, 0.0) / worked / 60:.1f} min left"


def count_jobs(params: list[str], overrides: list[str]) -> int:
    """How many jobs Hydra's basic sweeper makes of these overrides; the later one of a key counts."""
    sizes: dict[str, int] = {}
    for override in OverridesParser.create().parse_overrides(params + overrides):
        key, value = override.get_key_element(), override.value()
        if isinstance(value, Glob):
            sizes[key] = len(value.filter([*entries(key), "custom"]))
        else:
            sizes[key] = len(list(override.sweep_iterator())) if override.is_discrete_sweep() else 1
    total = 1
    for size in sizes.values():
        total *= size
    return total
