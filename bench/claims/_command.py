"""`python -m bench claims`."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.claims import Claim, Evidence, Finding, _ledger, claims
from bench.packed import Packed, opened
from bench.store import Store
from linalg import InputError

REFERENCE = Path("results/reference")


def main(arguments: list[str], sweep: Callable[[list[str]], int]) -> int:
    """Settle claims: run the experiments that are missing, write the ledger.

    Args:
        sweep: runs a sweep by its overrides, and returns an exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m bench claims", description=(main.__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="claims such as op_lora.C5, or files such as op_lora; all if none")
    parser.add_argument("--list", action="store_true", help="print the claims and what the ledger says of them")
    parser.add_argument("--trace", action="store_true", help="print the lanes behind the figures of the claims named")
    parser.add_argument(
        "--scaled", action="store_true", help="without names: run what claims on fine-tuned models need, too, for hours"
    )
    parser.add_argument("--stored", action="store_true", help="run nothing: settle from what --results holds")
    parser.add_argument("--kept", action="store_true", help="take the cells that the ledger holds, and run those it lacks")
    parser.add_argument("--results", default="results", help="the folder where experiments run (default: %(default)s)")
    parser.add_argument("--out", default=str(REFERENCE), help="the folder of the ledger (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder, chosen = Path(options.out), named(options.names)
    if options.list or options.trace:
        entries = _ledger.read(folder)
        for name, claim in chosen.items():
            if options.list:
                print(f"{name:<32}{entries.get(name, {}).get('verdict', 'not settled yet'):<24}{claim.sentence}")
            elif name in entries:
                print("\n".join(_ledger.trace(name, entries[name], folder)), end="\n\n")
            else:
                raise InputError(f"{name}: {folder} holds no verdict on it; run python -m bench claims {name}")
        return 0
    if not options.stored:
        run = [claim for claim in chosen.values() if options.names or options.scaled or not claim.scaled]
        experiments = [name for claim in run for name in claim.experiments]
        experiments += [] if options.names else _ledger.ALSO
        if options.kept:
            count = _ledger.take_cells(folder, Store(Path(options.results)), experiments)
            print(f"{count} cells come from {folder}", file=sys.stderr)
        run_missing(experiments, options.results, sweep)
    settle(chosen, opened(options.results) if options.stored else Store(Path(options.results)), folder)
    return 0


def named(names: Sequence[str]) -> dict[str, Claim]:
    """The claims of these names, or of these files.

    Raises:
        InputError: where a name is neither.
    """
    known = claims()
    found: dict[str, Claim] = {}
    for name in names or [""]:
        matching = {each: claim for each, claim in known.items() if name in ("", each, each.partition(".")[0])}
        if not matching:
            raise InputError(f"{name}: must be a claim or a file of claims: {', '.join(known)}")
        found |= matching
    return found


def run_missing(experiments: Sequence[str], results: str, sweep: Callable[[list[str]], int]) -> None:
    """Run experiments; finished cells are kept, so that only what is missing runs.

    Raises:
        InputError: where one fails.
    """
    launcher = ["hydra/launcher=joblib"] if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") else []
    experiments = list(dict.fromkeys(experiments))
    for i, name in enumerate(experiments):
        print(f"experiment {i + 1} of {len(experiments)}: {name}", file=sys.stderr)
        if sweep([f"experiment={name}", f"results={results}", "figures=[]", *launcher]):
            raise InputError(f"experiment={name}: did not finish; the same command goes on from here")
        stop_workers()


def stop_workers() -> None:
    """End joblib's processes, which outlive a sweep and would post their progress to the board of the one that started them."""
    if "joblib.externals.loky" in sys.modules:
        sys.modules["joblib.externals.loky"].get_reusable_executor().shutdown()


def settle(chosen: dict[str, Claim], store: Store, folder: Path) -> None:
    """Settle claims, print their verdicts as they come, and write the ledger."""
    settled: dict[str, tuple[Claim, Finding, Evidence]] = {}
    for name, claim in chosen.items():
        finding, evidence = _ledger.settle(name, claim, store)
        settled[name] = claim, finding, evidence
        print(f"{name:<32}{finding.verdict:<24}{finding.said}")
    _ledger.publish(folder, store, settled, list(claims()))
    count = len(Packed(folder).keys())
    print(f"{folder / _ledger.PAGE}: {len(_ledger.read(folder))} claims; the {count} cells behind them are packed beside it")
