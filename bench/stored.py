"""A finished cell as it lies in a store."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench.labels import settings
from bench.store import PICTURES, Store


@dataclass(eq=False)
class StoredCell:
    """A finished cell, its tables read when first asked for."""

    store: Store
    key: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.store.summary(self.key)

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.store.config(self.key)

    @cached_property
    def settings(self) -> dict[str, Any]:
        return settings(self.config)

    @cached_property
    def lanes(self) -> pd.DataFrame:
        return self.store.load(self.key, "lanes")

    @property
    def reported(self) -> pd.DataFrame:
        """The reporting seeds' lanes; none where every rate diverged in tuning."""
        return self.lanes.loc[self.lanes["role"] == "report"]

    @property
    def tuned(self) -> pd.DataFrame:
        """The tuning seeds' lanes."""
        return self.lanes.loc[self.lanes["role"] == "tune"]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The reporting seeds' curves; empty where they were not kept."""
        table = self.store.load(self.key, "curves")
        if not len(table):  # a packed store may have none
            return table
        return table.loc[table["role"] == "report"].copy()  # a copy lets go of the tuning seeds'

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """The reporting seeds' singular values at the end; empty where they were not probed."""
        table = self.store.load(self.key, "spectra")
        if not len(table):
            return table
        table = table.loc[table["role"] == "report"]
        return table.loc[table["step"] == table.groupby("lane")["step"].transform("max")]

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """A row a picture, with set, index and png; empty where the problem has none."""
        return self.store.load(self.key, PICTURES)

    @property
    def validated(self) -> bool:
        """Whether a loss on data held out picks the learning rate, as in models."""
        return "final_validation_loss" in self.lanes

    @property
    def held_out(self) -> bool:
        """Whether the problem keeps entries back, and is judged by these."""
        return "final_test_rmse" in self.lanes

    def curve(self, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """(p,) steps and (k, p) the quantity on the k reporting seeds, lanes by number; nothing where it was not probed."""
        if not len(self.curves) or quantity not in self.curves:
            return np.empty(0), np.empty((0, 0))
        return spread(self.curves, "lane", "step", quantity)


def spread(table: pd.DataFrame, row: str, column: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    """(p,) the values of one column and (k, p) those of another, a row for each value of a third; NaN where there is none."""
    rows, i = np.unique(table[row].to_numpy(), return_inverse=True)
    columns, j = np.unique(table[column].to_numpy(dtype=float), return_inverse=True)
    wide = np.full((len(rows), len(columns)), np.nan)
    wide[i, j] = table[value].to_numpy(dtype=float)
    return columns, wide
