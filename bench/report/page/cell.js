"use strict";
// One cell: what it reached, how it was set, where the numbers come from, how to get them again, and all of its runs.
(function () {
  const el = Report.el;

  function pairs(values) {
    return el(
      "dl",
      { class: "pairs" },
      Object.keys(values).map(function (name) {
        return [el("dt", {}, name), el("dd", {}, values[name])];
      }),
    );
  }

  function copyButton(text) {
    const said = el("span", { class: "faint", role: "status" });
    function select(code) {
      const range = document.createRange();
      range.selectNodeContents(code);
      window.getSelection().removeAllRanges();
      window.getSelection().addRange(range);
      said.textContent = "Selected: copy it with the keyboard";
    }
    const code = el("code", { tabindex: "0", id: "command" }, text);
    const button = el(
      "button",
      {
        type: "button",
        on: {
          click: function () {
            const copied = navigator.clipboard
              ? navigator.clipboard.writeText(text)
              : Promise.reject(new Error("no clipboard"));
            copied.then(
              function () {
                said.textContent = "Copied";
              },
              function () {
                select(code);
              },
            );
          },
        },
      },
      "Copy the command",
    );
    return el("div", { class: "command" }, el("pre", {}, code), el("div", { class: "both" }, button, said));
  }

  function figures(overview, i) {
    const cells = overview.cells,
      problem = overview.problems[cells.problem[i]],
      verdicts = {
        b: "best of the problem",
        "+": "better than the best when paired",
        "=": "equal to the best",
        "~": "open beside the best",
        "-": "worse than the best",
        u: "not compared with the best: other seeds",
        n: "",
      };
    const rows = {
      Error:
        problem.headline +
        " " +
        Report.interval(cells.headline[i], "diverged") +
        ", " +
        verdicts[cells.verdict_headline[i]],
    };
    rows["Learning rate"] =
      cells.lr[i] === null
        ? "every rate diverged in tuning"
        : Report.number(cells.lr[i]) +
          (cells.window_edge[i] ? ", the last one tried: a better one may lie beyond" : "");
    if (cells.lr[i] !== null) {
      rows["Rates that will do"] =
        Report.number(cells.window_low[i]) +
        " to " +
        Report.number(cells.window_high[i]) +
        " (" +
        Report.decades(cells.window_decades[i]) +
        "): " +
        cells.window_care[i];
    }
    for (const measure of overview.measures) {
      if (measure.id.startsWith("steps") && Number.isFinite(cells[measure.id][i][0])) {
        rows[measure.words[0].toUpperCase() + measure.words.slice(1)] = Report.interval(cells[measure.id][i], "never");
      }
    }
    if (cells.lost[i]) {
      rows.Diverged = cells.lost[i] + " of " + cells.seeds[i] + " reporting seeds";
    }
    return pairs(rows);
  }

  function provenance(cell) {
    const from = cell.provenance,
      summary = cell.summary;
    const seconds = function (value) {
      return Report.number(value) + " s";
    };
    return pairs({
      Finished: from.finished,
      Commit: from.commit || "not a checkout",
      Processor: from.processor,
      Device: from.device,
      Threads: String(from.threads),
      "Wall time": seconds(from.wall_seconds),
      "Processor time": seconds(from.cpu_seconds),
      "Time in steps": seconds(from.step_seconds),
      "Time in probes": seconds(from.probe_seconds),
      Versions:
        "python " +
        from.python +
        ", " +
        Object.keys(from.versions)
          .map((name) => name + " " + (from.versions[name] || "not installed"))
          .join(", "),
      "Trainable numbers": String(summary.parameters),
      "Bytes of optimizer state": String(summary.state_bytes),
      ...(summary.peak_bytes === undefined
        ? {}
        : {
            "Bytes of gradients": String(summary.gradient_bytes),
            "Bytes of the model": String(summary.model_bytes),
            "Bytes of a step at its height": String(summary.peak_bytes),
          }),
      "Rates tried": summary.grid.map((rate) => Report.number(rate)).join(", "),
    });
  }

  function lanes(cell) {
    const names = Object.keys(cell.lanes),
      count = Math.max.apply(
        null,
        names.map((name) => cell.lanes[name].length),
      );
    const at = function (name, i) {
      const values = cell.lanes[name];
      return values[values.length === 1 ? 0 : i];
    };
    const rows = Array.from({ length: count }, (_, i) => i).sort(
      (a, b) => (at("role", a) === "tune") - (at("role", b) === "tune"),
    );
    const leading = ["role", "seed", "lr", "status"];
    const columns = leading.concat(names.filter((name) => !leading.includes(name))).map(function (name) {
      const numeric = typeof at(name, 0) !== "string";
      return {
        label: name.replace(/_/g, " "),
        number: numeric,
        value: (i) => at(name, i),
        text: function (i) {
          const value = at(name, i);
          return numeric ? Report.number(value, name.startsWith("steps") ? "never" : "diverged") : value;
        },
      };
    });
    return Report.table(columns, rows, {
      caption: "All runs of this cell: reporting seeds at the chosen rate, and every rate on the tuning seeds",
      limit: 80,
    });
  }

  function show(section) {
    const overview = Report.pieces.overview,
      key = Report.get("cell", ""),
      i = Report.places.byKey[key];
    if (i === undefined) {
      section.replaceChildren(
        el("h1", { tabindex: "-1" }, "No such cell"),
        el("p", {}, "This report has no cell " + key + ". "),
        el("p", {}, el("a", { href: "#view=overview" }, "To the overview")),
      );
      return null;
    }
    const problem = overview.problems[overview.cells.problem[i]],
      j = overview.cells.method[i],
      method = overview.methods[j],
      rest = el("div", {});
    const charts = [
      ["curves", "Curves"],
      ["condition", "Conditions"],
      ["sensitivity", "Learning rates"],
      ["spectra", "Spectrum"],
    ];
    section.replaceChildren(
      el(
        "p",
        { class: "faint" },
        el("a", { href: "#view=overview" }, "Overview"),
        " › ",
        el("a", { href: Report.problemAddress(problem.name) }, problem.name),
      ),
      el("h1", { tabindex: "-1" }, Report.swatch(method), method.name + " on " + problem.name),
      figures(overview, i),
      el(
        "p",
        { class: "links" },
        "Alone on a chart: ",
        charts.map(function (each) {
          return [el("a", { href: Report.problemAddress(problem.name, each[0], { show: j }) }, each[1]), " "];
        }),
      ),
      rest,
    );
    return Report.load("problem-" + overview.cells.problem[i]).then(function (piece) {
      const cell = piece.cells[j];
      rest.replaceChildren(
        Report.samples.cell(piece, j),
        el("h2", {}, "Run it again"),
        copyButton(cell.command),
        el(
          "p",
          { class: "faint" },
          "From a checkout at the commit below; the cell's key is ",
          el("code", {}, cell.key),
          ".",
        ),
        el("h2", {}, "Settings"),
        pairs(cell.settings),
        el("h2", {}, "Where the numbers come from"),
        provenance(cell),
        el("h2", {}, "Runs"),
        lanes(cell),
      );
    });
  }

  Report.views.cell = { show: show };
})();
