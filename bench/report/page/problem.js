"use strict";
// One problem: its curves, conditions, learning rates, spectra and samples, for the methods chosen.
(function () {
  const el = Report.el;
  const CHARTS = [
    ["curves", "Curves"],
    ["condition", "Conditions"],
    ["sensitivity", "Learning rates"],
    ["spectra", "Spectrum"],
    ["samples", "Samples"],
  ];
  const ALL = "all";
  let figure = null;

  // The charts that a problem has: few have samples, which is known once its piece is read.
  function chartsOf(piece) {
    return CHARTS.filter((each) => each[0] !== "samples" || (piece && piece.samples));
  }

  function chartName(piece) {
    const asked = Report.get("chart", "curves");
    return chartsOf(piece).some((each) => each[0] === asked) ? asked : "curves";
  }

  function tabs(name, piece) {
    const chart = chartName(piece);
    return el(
      "ul",
      {},
      chartsOf(piece).map(function (each) {
        return el(
          "li",
          {},
          el(
            "a",
            {
              href: Report.problemAddress(name, each[0], {
                show: Report.get("show"),
                optimizer: Report.get("optimizer"),
              }),
              "aria-current": each[0] === chart ? "page" : null,
            },
            each[1],
          ),
        );
      }),
    );
  }

  function remember(spec) {
    return function () {
      const shown = spec.lines.filter((line) => line.shown && line.method);
      Report.set({
        show: shown.map((line) => line.index).join("."),
      });
    };
  }

  function pick(name, label, options, chosen, redraw) {
    return Report.select(label, options, chosen, function (value) {
      Report.set({ [name]: value });
      redraw();
    });
  }

  function curveControls(quantities, quantity, redraw) {
    return [
      pick(
        "quantity",
        "Quantity",
        quantities.map((each) => [each.id, each.words]),
        quantity.id,
        function () {
          Report.set({ yscale: null });
          redraw();
        },
      ),
      pick(
        "x",
        "Across",
        [
          ["step", "steps"],
          ["seconds", "seconds"],
        ],
        Report.get("x", "step"),
        redraw,
      ),
      pick(
        "xscale",
        "Axis across",
        [
          ["log", "logarithmic"],
          ["linear", "linear"],
        ],
        Report.get("xscale", "log"),
        redraw,
      ),
    ];
  }

  function yControl(standard, redraw) {
    return pick(
      "yscale",
      "Axis up",
      [
        ["log", "logarithmic"],
        ["all", "logarithmic, all of it"],
        ["linear", "linear"],
      ],
      Report.get("yscale", standard ? "log" : "linear"),
      redraw,
    );
  }

  // What a chart needs: its spec, controls of its own, and what stands below it.
  function parts(problem, piece, chart, redraw) {
    if (chart === "sensitivity") {
      return Report.rates(problem, piece, yControl(true, redraw));
    }
    if (chart === "spectra") {
      return { spec: Report.lines.spectrum(problem, piece), controls: [yControl(true, redraw)] };
    }
    const wanted = piece.quantities.filter(
      (each) => chart === "curves" || each.id.startsWith("condition") || each.id.startsWith("angle"),
    );
    const preferred =
      chart === "condition" ? "condition_gauss_newton" : problem.measure;
    const quantity = [Report.get("quantity", preferred), preferred, (wanted[0] || {}).id]
      .map((id) => wanted.find((each) => each.id === id))
      .find(Boolean);
    if (!quantity) {
      return null;
    }
    return {
      spec: Report.lines.curves(problem, piece, quantity),
      controls: curveControls(wanted, quantity, redraw).concat(yControl(quantity.log, redraw)),
      below: () => Report.lines.diverged(problem, piece),
    };
  }

  function drawChart(nav, place, problem, piece) {
    if (figure) {
      figure.destroy();
      figure = null;
    }
    const chart = chartName(piece),
      redraw = function () {
        drawChart(nav, place, problem, piece);
      },
      found = chart === "samples" ? null : parts(problem, piece, chart, redraw);
    const link = function () {
      nav.replaceChildren(tabs(problem.name, piece)); // another chart shows the same methods
    };
    link();
    const optimizers = Array.from(new Set(Report.pieces.overview.methods.map((method) => method.optimizer))).sort();
    const active =
      document.activeElement && document.activeElement.closest(".controls")
        ? document.activeElement.labels[0].textContent
        : null;
    const chosen = pick(
      "optimizer",
      "Optimizer",
      [[ALL, "all"]].concat(optimizers.map((name) => [name, name])),
      Report.get("optimizer", ALL),
      function () {
        Report.set({ show: null });
        redraw();
      },
    );
    if (chart === "samples") {
      place.replaceChildren(
        el("div", { class: "controls" }, chosen),
        Report.samples.problem(problem, piece.samples, redraw),
      );
    } else if (!found || !found.spec.lines.length) {
      const which = Report.get("optimizer", ALL) === ALL ? "no cell of this problem" : "no cell with this optimizer";
      place.replaceChildren(
        el("div", { class: "controls" }, chosen),
        el("p", { class: "note" }, "Not measured: " + which + " has it. A sweep with probes=all measures most."),
      );
    } else {
      figure = Report.figure(found.spec);
      const below = el("div", {});
      const keep = remember(found.spec),
        fill = function () {
          below.replaceChildren(found.below ? found.below(found.spec) : "");
        };
      found.spec.changed = function () {
        keep();
        link();
        fill();
      };
      place.replaceChildren(el("div", { class: "controls" }, chosen, found.controls), figure.element, below);
      figure.draw();
      fill();
    }
    if (active) {
      // the control that was used has been made again: it keeps the focus
      for (const label of place.querySelectorAll(".controls label")) {
        if (label.textContent === active) {
          label.control.focus();
        }
      }
    }
  }

  function show(section) {
    const data = Report.pieces.overview,
      name = Report.get("problem", data.problems[0].name),
      i = Report.problemIndex(name);
    if (i < 0) {
      section.replaceChildren(
        el("h1", { tabindex: "-1" }, "No such problem"),
        el("p", {}, "This report has no problem named " + name + "."),
      );
      return null;
    }
    const problem = data.problems[i],
      nav = el("nav", { class: "tabs", "aria-label": "Charts" }, tabs(name, Report.pieces["problem-" + i])),
      place = el("div", {}, el("p", { class: "faint" }, "Reading data/problem-" + i + ".js …"));
    const go = function (value) {
      location.hash = Report.problemAddress(value, Report.get("chart", "curves"), { optimizer: Report.get("optimizer") });
    };
    section.replaceChildren(
      el("h1", { tabindex: "-1" }, problem.name),
      el("p", { class: "lead" }, problem.about),
      el(
        "div",
        { class: "controls" },
        Report.select(
          "Problem",
          data.problems.map((each) => [each.name, each.name]),
          name,
          go,
        ),
      ),
      nav,
      place,
    );
    return Report.load("problem-" + i).then(function (piece) {
      if (place.isConnected) {
        drawChart(nav, place, problem, piece);
      }
    });
  }

  Report.views.problem = { show: show };
})();
