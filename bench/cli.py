"""The commands behind `python -m bench`."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from bench import catalogue, compare, config, process, reference, tables
from bench.composing import checked_in_advance
from bench.jobs import PAGE, describe, job
from bench.overhead import Timing
from bench.overrides import check_overrides, one_line
from bench.packed import opened
from bench.progress import FINISHED, Board, Watcher
from bench.store import Store
from linalg import InputError

HELP = """usage: python -m bench [OVERRIDE ...]           run a sweep: any keys of the configuration, commas sweep
       python -m bench experiment=NAME [...]    run a named sweep
       python -m bench list                     what there is on each axis, and what does not go together
       python -m bench plot [figure=A,B]        draw a sweep's figures again, for papers with --width column or page
       python -m bench table                    print a sweep's table of winners again
       python -m bench report                   write a sweep's report, a page that opens from disk
       python -m bench compare A B              two methods, or two folders of results, on the same seeds
       python -m bench claims [NAME ...]        settle papers' claims, write results/reference/CLAIMS.md
       python -m bench scaled [--size small]    the tasks in real models: a tour, a study, or all of it on a GPU
       python -m bench COMMAND --help           a command's options

examples:
  python -m bench problem=hilbert parameterization=lora,op_lora optimizer=adam
  python -m bench problem=matrix_factorization shape=[128,96] rank=4,8 lr.min=1e-3 lr.max=1 lr.count=13
  python -m bench optimizer=torch optimizer._target_=torch.optim.NAdam
  python -m bench parameterization=custom parameterization._target_=my_package.MyMethod +parameterization.my_option=3
  python -m bench experiment=default hydra/launcher=joblib

keys: problem parameterization optimizer (groups; their options as problem.rank=4)
      rank alpha depth scale (parameterizations) shape normalize reduction (problems)
      lr.min lr.max lr.count lr.values lr.extend seeds.tune seeds.report steps schedule warmup
      dtype device probes timeout results force figures
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, 1 where something failed, 2 where the input was bad, 130 where the user stopped it.
    """
    started = time.time() - (process.age() if arguments is None else 0.0)
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        "list": list_axes,
        "plot": plot,
        "table": table,
        "report": write_report,
        "compare": compare.main,
        "claims": settle_claims,
        "scaled": scaled,
    }
    try:
        if arguments[:1] in (["--help"], ["-h"], ["help"]):
            print(HELP)
            return 0
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        if arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
            raise InputError(f"{arguments[0]}: must be one of {', '.join(commands)}, or overrides such as problem=hilbert")
        return sweep(arguments, started)
    except InputError as error:
        return complain(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        return complain(one_line(error, arguments), 2)
    except OSError as error:
        return complain(describe(error), 1)
    except KeyboardInterrupt:
        return complain("stopped; finished cells are kept, and the same command goes on from here", 130)


def complain(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def sweep(arguments: list[str], started: float) -> int:
    """Run every cell of the overrides, print the winners and draw the figures asked for.

    Args:
        started: when the command was given.
    """
    check_overrides(arguments)
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here instead of ending the process in Hydra's own words
    if informational(arguments):
        run_hydra(arguments)
        return 0
    if finished := finished_sweep(arguments):
        store, name, kept = finished
        print(f"all {len(kept['keys'])} cells are there already (force=true runs them again)", file=sys.stderr)
        report(store, name, kept["keys"], kept["figures"])
        return 0
    timing = Timing(start=time.time() - started)
    board = Board.create()
    try:
        error = run_hydra(arguments, timing)
        if any(post.state == "busy" for post in board.latest().values()):
            print("waiting for cells that another process is running", file=sys.stderr)
            board.wait()
            error = run_hydra(arguments, timing) or error
        latest, asked, timing.workers = board.latest(), board.sweep(), board.processes()
        if asked is None:
            raise InputError(str(error or "no cell was run"))  # Hydra refused the overrides in words of its own
    finally:
        shutil.rmtree(board.folder, ignore_errors=True)
    counts = {state: sum(post.state == state for post in latest.values()) for state in FINISHED}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print(f"{len(latest)} cells in {time.time() - started:.0f} s: {said}", file=sys.stderr)
    keys = [key for key, post in latest.items() if post.state in ("done", "kept")]
    if keys:
        store = Store(Path(asked["results"]))
        whole = error is None and len(keys) + counts["refused"] == len(latest)
        record = (asked["name"], keys, asked["figures"], config.signature(arguments) if whole else "")
        store.write_sweep(*record)
        drawing = time.time()
        report(store, asked["name"], keys, asked["figures"])
        timing.add(store, [key for key, post in latest.items() if post.state == "done"])
        timing.figures, timing.wall = time.time() - drawing, time.time() - started
        store.write_sweep(*record, timing.record())
    if counts["failed"]:
        return complain("; ".join(post.message for post in latest.values() if post.state == "failed"), 1)
    if error is not None:
        raise error
    if counts["busy"]:
        return complain(f"{counts['busy']} cells are left to another process; the same command takes up what it leaves", 1)
    if not keys:
        raise InputError("; ".join(dict.fromkeys(post.message for post in latest.values() if post.message)) or "no cell was run")
    return 0


def informational(arguments: list[str]) -> bool:
    """Whether Hydra is asked to print something, not to run."""
    return any(argument.startswith(("--cfg", "--info", "--hydra-help", "--resolve", "--version")) for argument in arguments)


def finished_sweep(arguments: list[str]) -> tuple[Store, str, dict[str, Any]] | None:
    """The store, name and record of a sweep of these very overrides, if all it needs is there and still what it would be.

    Composing a configuration takes Hydra a tenth of a second a cell; this looks at the cells themselves instead.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if given.get("force", "false").lower() != "false":
        return None
    store, signature = Store(Path(given.get("results", "results"))), config.signature(arguments)
    for name, record in store.sweeps().items():
        if record["signature"] == signature and record["keys"]:
            same = all(store.done(key) and config.rebuilt(store.config(key)).key == key for key in record["keys"])
            return (store, name, record) if same else None
    return None


def run_hydra(arguments: list[str], timing: Timing | None = None) -> Exception | None:
    """Hand the overrides to Hydra; the first error that a job raised, if one did. What it takes is added to `timing`."""
    sweeping = [] if informational(arguments) else ["--multirun"]  # else Hydra guesses, from the overrides without the experiment's
    before, sys.argv = sys.argv, ["bench", *sweeping, *arguments]
    timing, started = timing or Timing(), time.time()
    try:
        with checked_in_advance() as composed:
            hydra.main(config_path="pkg://bench.conf", config_name="config", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # raised by a job, which has posted it; it decides the exit code
        return error
    finally:
        Watcher.stop()
        sys.argv = before
        timing.composing += composed.seconds
        timing.cells += time.time() - started - composed.seconds
    return None


def report(store: Store, name: str, keys: list[str], figures: list[str]) -> None:
    """Print the table of winners, draw the figures and say where they are."""
    tables.print_winners(store, keys)
    print("\n".join(reference.said_of(store, keys)))
    drawings = [figure for figure in figures if figure != PAGE]
    if drawings:
        from bench import plots

        paths = plots.draw(store, name, keys, drawings)
        print("\n".join(map(str, paths)) or f"nothing was measured that {', '.join(drawings)} could show; probes=all measures most")
    if PAGE in figures:
        from bench import report as page

        print(f"to open in a browser: {page.write(store, keys, page.folder_of(store, name), name)}")
    print(f"tables and curves of every cell: {store.runs}")


def list_axes(arguments: list[str]) -> int:
    """Print the three axes, one line an entry, then what does not go together."""
    parser = argparse.ArgumentParser(prog="python -m bench list", description=list_axes.__doc__)
    parser.add_argument("--markdown", action="store_true", help="as the page docs/catalogue.md")
    if parser.parse_args(arguments).markdown:
        print(tables.catalogue_page(), end="")
        return 0
    console = Console(soft_wrap=True, highlight=False)
    for axis in catalogue.AXES:
        console.print(f"[bold]{axis}[/bold]")
        for name, cls in catalogue.entries(axis).items():
            console.print(f"  {name:<24}{escape(catalogue.summary(cls))} [dim]{escape(cls.reference)}[/dim]")
    console.print("[bold]what does not go together[/bold]")
    for line in tables.exceptions():
        console.print(f"  {escape(line)}")
    console.print("[bold]experiment[/bold]")
    for name, line in config.experiments().items():
        console.print(f"  {name:<24}{escape(line)}")
    return 0


def plot(arguments: list[str]) -> int:
    """Draw a sweep's figures again from what is stored, as PNG, SVG and PDF."""
    from bench.plots import _command

    return _command.main(arguments)


def table(arguments: list[str]) -> int:
    """Print a sweep's table of winners again."""
    _, store, keys = stored_sweep(argparse.ArgumentParser(prog="python -m bench table", description=table.__doc__), arguments)
    tables.print_winners(store, keys)
    return 0


def write_report(arguments: list[str]) -> int:
    """Write a sweep's report: one folder with an index.html that opens from disk."""
    from bench import report

    return report.main(arguments)


def settle_claims(arguments: list[str]) -> int:
    """Settle the claims of the ledger."""
    from bench.claims import _command

    return _command.main(arguments, lambda overrides: sweep(overrides, time.time()))


def scaled(arguments: list[str]) -> int:
    """Fine-tune real models by the methods of the suite."""
    from bench import scaled as tasks

    return tasks.main(arguments, lambda overrides: sweep(overrides, time.time()))


def stored_sweep(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[str, Store, list[str]]:
    """The sweep that a command's options name, with its finished cells."""
    parser.add_argument("--results", default="results", help="the folder of what is kept (default: %(default)s)")
    parser.add_argument("--sweep", default=None, help="the sweep's name: an experiment's, or 'sweep' (default: the latest)")
    options = parser.parse_args(arguments)
    store = opened(options.results)
    name, keys = store.sweep(options.sweep)
    if not keys:
        raise InputError(f"--results={options.results}: holds no finished cells of {name}; run a sweep first")
    return name, store, keys
