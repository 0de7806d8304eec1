"use strict";
// The first view: what to show, the answers, then all cells.
(function () {
  const el = Report.el;

  function show(section) {
    const data = Report.pieces.overview,
      answers = el("div", {}),
      tables = el("div", {}),
      count = el("p", { class: "faint", id: "count" });
    function measureOf() {
      const asked = Report.get("measure", "headline");
      return data.measures.find((measure) => measure.id === asked) || data.measures[0];
    }
    function draw() {
      const chosen = Report.chosen(),
        layout = Report.get("layout", "matrix");
      answers.replaceChildren(Report.answers(chosen.problems.map((i) => data.problems[i])));
      tables.replaceChildren(layout === "list" ? Report.cells.list(chosen) : Report.cells.matrix(chosen, measureOf()));
      count.textContent =
        Report.plural(chosen.problems.length, "problem") +
        " × " +
        Report.plural(chosen.methods.length, "method") +
        " shown";
      Report.say(count.textContent);
    }
    function change(name) {
      return function (value) {
        Report.set({ [name]: value });
        draw();
      };
    }
    section.replaceChildren(
      el("h1", { tabindex: "-1" }, "Which method, and how careful with the rate?"),
      el(
        "p",
        { class: "lead" },
        "Best method of each problem at the rate that tuning chose, with a 95 % interval over seeds; " +
          "what the same seeds cannot tell from it; " +
          "and which rates will do, that is leave at most ten times the excess loss that the best rate leaves. ",
        el("a", { href: "#view=help" }, "How to read this"),
      ),
      Report.filters(draw),
      count,
      answers,
      el("h2", { id: "all-cells" }, "All cells"),
      el(
        "div",
        { class: "controls" },
        Report.select(
          "Layout",
          [
            ["matrix", "Problems by methods"],
            ["list", "List of cells"],
          ],
          Report.get("layout", "matrix"),
          change("layout"),
        ),
        Report.select(
          "Measure",
          data.measures.map((measure) => [measure.id, measure.words]),
          measureOf().id,
          change("measure"),
        ),
      ),
      el(
        "p",
        { class: "faint" },
        "★ best of its problem. ≈ not distinguishable from it on the same seeds (errors, shares and steps to 1 %). " +
          "Blank: not run. A click on a heading sorts, a click on a figure opens its cell.",
      ),
      tables,
    );
    draw();
  }

  Report.views.overview = { show: show };
})();
