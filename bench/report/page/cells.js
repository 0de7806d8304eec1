"use strict";
// All cells as a table: problems by methods for one measure, or a list with several figures of each.
(function () {
  const el = Report.el,
    MARKS = {
      b: ["★", "best"],
      "=": ["≈", "equal"],
      "~": ["≈", "open"],
      "+": ["≈", "better when paired"],
      u: ["?", "other seeds"],
    };
  const LIST = 100;

  function cells() {
    return Report.pieces.overview.cells;
  }

  function value(measure, i) {
    if (i === undefined) {
      return null;
    }
    return measure === "window" ? (cells().lr[i] === null ? null : cells().window_decades[i]) : cells()[measure][i][0];
  }

  function mark(measure, i) {
    const verdicts = cells()["verdict_" + measure],
      found = verdicts && Number.isFinite(value(measure, i)) ? MARKS[verdicts[i]] : null;
    return found
      ? el(
          "span",
          { class: "mark mark-" + found[1].split(" ")[0], title: found[1] },
          el("span", { "aria-hidden": "true" }, found[0]),
          el("span", { class: "hidden" }, found[1] + ", "),
        )
      : null;
  }

  function told(measure, i) {
    if (measure.id === "window") {
      if (cells().lr[i] === null) {
        return ["no rate works", ""];
      }
      const open = cells().window_open_low[i] || cells().window_open_high[i] ? "≥ " : "";
      return [
        open + Report.number(cells().window_decades[i]),
        Report.number(cells().window_low[i]) + " to " + Report.number(cells().window_high[i]),
      ];
    }
    const triple = cells()[measure.id][i],
      same = triple[0] === triple[1] && triple[0] === triple[2];
    const ends = same ? "" : "[" + Report.number(triple[1], "∞") + ", " + Report.number(triple[2], "∞") + "]";
    return [Report.number(triple[0], measure.infinite), ends];
  }

  function entry(measure, i) {
    const words = told(measure, i),
      lost = cells().lost[i];
    return el(
      "a",
      { class: "entry", href: Report.cellAddress(cells().key[i]) },
      mark(measure.id, i),
      el("span", { class: "figure" }, words[0]),
      el("small", {}, words[1]),
      lost && measure.id !== "window"
        ? el("small", { class: "lost" }, lost + " of " + cells().seeds[i] + " diverged")
        : null,
    );
  }

  function absentReasons() {
    const found = {};
    Report.pieces.overview.absent.forEach(function (each) {
      found[each.problem + " " + each.method] = each.reason;
    });
    return found;
  }

  function matrix(chosen, measure) {
    const data = Report.pieces.overview,
      reasons = absentReasons();
    const columns = [
      {
        label: "Method",
        value: (j) => data.methods[j].name,
        cell: (j) => [Report.swatch(data.methods[j]), data.methods[j].name],
      },
    ];
    for (const i of chosen.problems) {
      columns.push({
        label: data.problems[i].name,
        number: true,
        title: "Sort by " + data.problems[i].name,
        value: (j) => (chosen.has(i, j) ? value(measure.id, Report.cellAt(i, j)) : null),
        cell: function (j) {
          const at = Report.cellAt(i, j),
            reason = reasons[i + " " + j];
          if (!chosen.has(i, j)) {
            return "";
          }
          return at !== undefined
            ? entry(measure, at)
            : el("span", { class: "absent" }, reason ? "not run: " + reason : "");
        },
      });
    }
    const caption =
      measure.words[0].toUpperCase() +
      measure.words.slice(1) +
      ": median over the reporting seeds with its 95 % interval";
    return Report.table(columns, chosen.methods, {
      caption: measure.id === "window" ? "Window of good rates in decades, and its ends" : caption,
      grid: true,
      empty: "No cell has all these words.",
    });
  }

  function list(chosen) {
    const data = Report.pieces.overview,
      rows = [];
    cells().key.forEach(function (key, i) {
      const problem = cells().problem[i],
        method = cells().method[i];
      if (chosen.problems.includes(problem) && chosen.methods.includes(method) && chosen.has(problem, method)) {
        rows.push(i);
      }
    });
    const best = data.measures[0],
      fast = data.measures.find((measure) => measure.id === "steps_to_1e-02");
    function of(i) {
      return data.methods[cells().method[i]];
    }
    const order = { b: 0, "+": 1, "=": 2, "~": 3, u: 4, "-": 5, n: 6 };
    const columns = [
      {
        label: "Problem",
        value: (i) => data.problems[cells().problem[i]].name,
      },
      {
        label: "Method",
        value: (i) => of(i).name,
        cell: function (i) {
          return el("a", { href: Report.cellAddress(cells().key[i]) }, Report.swatch(of(i)), of(i).name);
        },
      },
      {
        label: "Beside the best",
        value: (i) => order[cells().verdict_headline[i]],
        cell: function (i) {
          const code = cells().verdict_headline[i];
          return code in MARKS && Number.isFinite(value("headline", i))
            ? MARKS[code][0] + " " + MARKS[code][1]
            : code === "-"
              ? "worse"
              : code in MARKS
                ? "diverged"
                : "";
        },
      },
      {
        label: "Error",
        number: true,
        value: (i) => value("headline", i),
        text: (i) => told(best, i).join(" "),
      },
      {
        label: "Rate",
        number: true,
        value: (i) => cells().lr[i],
        text: (i) =>
          cells().lr[i] === null ? "none" : Report.number(cells().lr[i]) + (cells().window_edge[i] ? " (edge)" : ""),
      },
      {
        label: "Window, decades",
        number: true,
        value: (i) => value("window", i),
        text: function (i) {
          return told({ id: "window" }, i)[0];
        },
      },
      {
        label: "Care",
        value: (i) => value("window", i),
        text: (i) => cells().window_care[i],
      },
      {
        label: "Steps to 1 %",
        number: true,
        value: (i) => value(fast.id, i),
        text: (i) => told(fast, i).join(" "),
      },
      {
        label: "Diverged",
        number: true,
        value: (i) => cells().lost[i],
        text: (i) => (cells().lost[i] ? cells().lost[i] + " of " + cells().seeds[i] : "0"),
      },
    ];
    return Report.table(columns, rows, {
      caption: "Every cell: what it reached, at which rate, how fast",
      limit: LIST,
      empty: "No cell has all these words.",
    });
  }

  Report.cells = { matrix: matrix, list: list };
})();
