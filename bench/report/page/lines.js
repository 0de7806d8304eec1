"use strict";
// From a problem's numbers to the lines of a chart: which methods, along which axes, and what to say of those that diverged.
(function () {
  const el = Report.el,
    ALL = "all",
    SHOWN = 8; // lines at first

  // Methods of the problem by the error they reach, best first, of the optimizer chosen.
  function ranked(problem) {
    const data = Report.pieces.overview,
      cells = data.cells,
      optimizer = Report.get("optimizer", ALL),
      i = Report.problemIndex(problem.name);
    const found = data.methods
      .map((_, j) => j)
      .filter(
        (j) => Report.cellAt(i, j) !== undefined && (optimizer === ALL || data.methods[j].optimizer === optimizer),
      );
    const rank = function (j) {
      return cells.headline[Report.cellAt(i, j)];
    };
    return found.sort(function (a, b) {
      const x = rank(a),
        y = rank(b);
      return x[0] !== y[0] ? (x[0] < y[0] ? -1 : 1) : x[2] !== y[2] ? (x[2] < y[2] ? -1 : 1) : a - b;
    });
  }

  // The lines of a chart from curves by method; those shown stand in the address, or are the best few.
  function linesOf(problem, curves, more) {
    const asked = Report.state.has("show") ? new Set(Report.get("show").split(".").filter(Boolean).map(Number)) : null;
    const found = ranked(problem)
      .filter((j) => curves[j])
      .map(function (j, rank) {
        return Object.assign(
          {
            index: j,
            method: Report.method(j),
            name: Report.method(j).name,
            shown: asked ? asked.has(j) : rank < SHOWN,
          },
          curves[j],
          more ? more(j) : null,
        );
      });
    if (asked && found.length && !found.some((line) => line.shown) && asked.size) {
      found.slice(0, SHOWN).forEach(function (line) {
        line.shown = true;
      });
    }
    return found;
  }

  function curveSpec(problem, piece, quantity) {
    const seconds = Report.get("x", "step") === "seconds",
      scale = Report.get("xscale", "log"),
      up = Report.get("yscale", quantity.log ? "log" : "linear");
    const lines = linesOf(problem, piece.curves[quantity.id] || {}, function (j) {
      const factor = seconds ? piece.seconds[j] : 1,
        curve = piece.curves[quantity.id][j];
      return {
        x: curve.x.map((x) => x * factor),
        at: piece.divergence[j].at.map((x) => x * factor),
      };
    });
    const steps = lines.map((line) => line.x.find((x) => x > 0) || 1);
    return {
      title: problem.name + ": " + quantity.words,
      infinite: "diverged",
      lines: lines,
      band:
        "median over the reporting seeds, with the middle half as a band" +
        (seconds ? "; seconds: step × the cell's mean seconds a step of one run" : ""),
      x: {
        words: seconds ? "seconds" : "step",
        name: seconds ? "second" : "step",
        scale: scale === "log" ? "symlog" : "linear",
        threshold: steps.length ? Math.min.apply(null, steps) : 1,
      },
      y: { words: quantity.words, log: up !== "linear", view: up === "log" ? quantity.view : null },
    };
  }

  function diverged(problem, piece) {
    const lost = ranked(problem).filter((j) => piece.divergence[j].diverged || !piece.divergence[j].seeds);
    if (!lost.length) {
      return el("p", { class: "faint" }, "No reporting seed of these methods diverged.");
    }
    return el(
      "div",
      {},
      el("h2", {}, "What diverged"),
      el(
        "ul",
        { class: "others" },
        lost.map(function (j) {
          const found = piece.divergence[j],
            where = Array.from(new Set(found.at))
              .map((step) => Report.number(step))
              .join(", ");
          return el(
            "li",
            {},
            Report.swatch(Report.method(j)),
            Report.method(j).name +
              ": " +
              (found.seeds
                ? found.diverged +
                  " of " +
                  Report.plural(found.seeds, "seed") +
                  (where ? ", seen at step " + where : "")
                : "every rate diverged on the tuning seeds"),
          );
        }),
      ),
    );
  }

  function spectrumSpec(problem, piece) {
    const lines = linesOf(problem, piece.spectra);
    if (piece.target && lines.length) {
      lines.push(Object.assign({ name: "target", shown: true }, piece.target));
    }
    return {
      title: problem.name + ": singular values learned, and the target's",
      band: "median over the reporting seeds at the end, with the middle half as a band",
      lines: lines,
      infinite: "infinite",
      rest: "The last value shown",
      x: { words: "index", name: "index", scale: "linear" },
      y: {
        words: "singular value",
        log: Report.get("yscale", "log") !== "linear",
        view: Report.get("yscale", "log") === "log" ? piece.spectra_view : null,
      },
    };
  }

  Report.lines = { of: linesOf, curves: curveSpec, diverged: diverged, spectrum: spectrumSpec };
})();
