"use strict";
// Learning-rate sensitivity: score against rate, and below it a strip a method with the rates in its window and those that diverge.
(function () {
  const el = Report.el,
    FEW = 2; // methods whose windows are shaded at once; of more, the one pointed at

  function cellOf(problem, line) {
    const cells = Report.pieces.overview.cells,
      i = Report.cellAt(Report.problemIndex(problem.name), line.index);
    return {
      low: cells.window_low[i],
      high: cells.window_high[i],
      lr: cells.lr[i],
      decades: cells.window_decades[i],
      care: cells.window_care[i],
      edge: cells.window_edge[i],
      open: cells.window_open_low[i] || cells.window_open_high[i],
      key: cells.key[i],
    };
  }

  function shades(problem, spec) {
    const shown = spec.lines.filter((line) => line.shown),
      i = spec.focused();
    const wanted = i !== null ? [spec.lines[i]] : shown.length <= FEW ? shown : [];
    return wanted
      .map(function (line) {
        return Object.assign(cellOf(problem, line), { colour: Report.colour(line.method) });
      })
      .filter((shade) => shade.lr !== null);
  }

  function share(line, i) {
    return Math.round(line.diverged[i] * line.seeds) + " of " + line.seeds;
  }

  function strip(problem, line, low, high) {
    const cell = cellOf(problem, line),
      span = Math.log(high / low) || 1;
    const left = function (rate) {
      return ((100 * Math.log(rate / low)) / span).toFixed(2) + "%";
    };
    const marks = line.x.map(function (rate, i) {
      const lost = line.diverged[i] > 0,
        kind = rate === cell.lr ? "chosen" : line.inside[i] ? "inside" : lost ? "lost" : "outside";
      const words =
        Report.number(rate) +
        ": " +
        (rate === cell.lr ? "chosen" : line.inside[i] ? "in the window" : "outside the window") +
        (lost ? ", " + share(line, i) + " seeds diverged" : "");
      return el("span", {
        class: "dot " + kind + (lost ? " partly" : ""),
        style: "left:" + left(rate) + ";--lost:" + line.diverged[i],
        title: words,
      });
    });
    const bar =
      cell.lr === null
        ? null
        : el("span", { class: "bar", style: "left:" + left(cell.low) + ";right:calc(100% - " + left(cell.high) + ")" });
    const said =
      cell.lr === null
        ? "every rate diverged"
        : cell.low === cell.high
          ? "only " + Report.number(cell.lr)
          : Report.number(cell.low) +
            " to " +
            Report.number(cell.high) +
            ", " +
            (cell.open ? "≥ " : "") +
            Report.decades(cell.decades);
    return el(
      "li",
      { style: "--colour:" + Report.colour(line.method) },
      el(
        "span",
        { class: "name" },
        Report.swatch(line.method),
        el("a", { href: Report.cellAddress(cell.key) }, line.name),
      ),
      el("span", { class: "track", "aria-hidden": "true" }, bar, marks),
      el(
        "span",
        { class: "said" },
        said + (cell.edge ? " (best at the edge)" : "") + (cell.lr === null ? "" : " · " + cell.care),
      ),
    );
  }

  function strips(problem, lines) {
    const rates = lines.flatMap((line) => line.x);
    if (!rates.length) {
      return "";
    }
    const low = Math.min.apply(null, rates),
      high = Math.max.apply(null, rates);
    return el(
      "div",
      {},
      el("h2", {}, "Which rates will do"),
      el(
        "p",
        { class: "faint" },
        "Every rate tried, from " +
          Report.number(low) +
          " to " +
          Report.number(high) +
          " on a logarithmic scale. Bar and filled dots: in the window (at most ten times the excess loss of the best). " +
          "Large: chosen. Red cross: some tuning seed diverged, the taller the more of them.",
      ),
      el(
        "ul",
        { class: "strips" },
        lines.map((line) => strip(problem, line, low, high)),
      ),
    );
  }

  Report.rates = function (problem, piece, control) {
    const lines = Report.lines.of(problem, piece.sensitivity);
    for (const line of lines) {
      line.ring = cellOf(problem, line).lr;
      line.note = function (i) {
        return line.diverged[i] > 0 ? " (" + share(line, i) + " diverged)" : "";
      };
    }
    const score = problem.held_out
      ? "validation error"
      : problem.validated
        ? "validation loss"
        : "final loss / initial loss";
    const spec = {
      title: problem.name + ": " + score + " against the learning rate",
      band: "median over the tuning seeds, with their full range as a band; the large marker is the rate chosen",
      lines: lines,
      infinite: "diverged",
      rest: "At the chosen rate",
      told: (line) => (line.ring === null ? Infinity : line.m[line.x.indexOf(line.ring)]),
      x: { words: "learning rate", name: "rate", scale: "log" },
      y: {
        words: score,
        log: Report.get("yscale", "log") !== "linear",
        view: Report.get("yscale", "log") === "log" ? piece.sensitivity_view : null,
      },
    };
    spec.shades = function () {
      return shades(problem, spec);
    };
    return {
      spec: spec,
      controls: [control],
      below: () =>
        strips(
          problem,
          lines.filter((line) => line.shown),
        ),
    };
  };
})();
