"use strict";
// Pictures that models drew: rows that all methods share above a row for each method.
(function () {
  const el = Report.el,
    SMALL = 64, // pixels that a picture takes; of a small one, each pixel is a whole number of them
    LARGE = 96,
    READING =
      "A column is of one noise, but for what is held out. Each row is of the first reporting seed, after training at " +
      "the rate that tuning chose.";

  function size(side) {
    return side > SMALL ? LARGE : side * Math.floor(SMALL / side);
  }

  function row(heading, name, pictures, missing) {
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, heading),
      pictures.length
        ? pictures.map((picture, i) => el("td", {}, el("img", { src: picture, alt: name + ", picture " + (i + 1) })))
        : el("td", { class: "faint", colspan: 10 }, missing),
    );
  }

  function missing(drawn) {
    return drawn.seed === null
      ? "No pictures: every rate diverged on the tuning seeds."
      : drawn.status === "ok"
        ? "No pictures were kept."
        : "No pictures: the first reporting seed " + (drawn.status === "diverged" ? "diverged." : "ran out of time.");
  }

  // lines: of Report.lines, or a single one without an address to lead to.
  function grid(samples, lines, caption) {
    const shared = Object.keys(samples.shared).map((name) => row(name, name, samples.shared[name]));
    const own = lines.map(function (line) {
      const other = line.pictures.length && line.seed !== samples.seed;
      const heading = [
        Report.swatch(line.method),
        line.address ? el("a", { href: line.address }, line.name) : line.name,
        other ? el("small", {}, " (of seed " + line.seed + ": another noise)") : null,
      ];
      return row(heading, line.name, line.pictures, missing(line));
    });
    return el(
      "div",
      { class: "scroll samples", tabindex: "0", role: "region", "aria-label": caption },
      el(
        "table",
        {
          class: samples.side > SMALL ? null : "pixels",
          style: "--side:" + size(samples.side) + "px",
        },
        el("caption", { class: "hidden" }, caption),
        el("tbody", {}, shared),
        el("tbody", {}, own),
      ),
    );
  }

  // For a problem: the methods chosen, best first, and a way to those that are not shown.
  function ofProblem(problem, samples, redraw) {
    const i = Report.problemIndex(problem.name),
      lines = Report.lines.of(problem, samples.own, function (j) {
        return { address: Report.cellAddress(Report.pieces.overview.cells.key[Report.cellAt(i, j)]) };
      });
    const shown = lines.filter((line) => line.shown),
      title = problem.name + ": pictures that the adapted models draw";
    const more = el(
      "button",
      {
        type: "button",
        class: "more",
        on: {
          click: function () {
            Report.set({ show: lines.map((line) => line.index).join(".") });
            redraw();
          },
        },
      },
      "Show all " + Report.plural(lines.length, "method"),
    );
    return el(
      "figure",
      { class: "chart" },
      el("figcaption", {}, el("strong", {}, title), " ", el("span", { class: "faint" }, READING)),
      grid(samples, shown, title),
      lines.length ? null : el("p", { class: "note" }, "No cell with this optimizer."),
      shown.length < lines.length ? more : null,
    );
  }

  // For a cell's own page: its row below those to compare it with; nothing where the problem has no pictures.
  function ofCell(piece, j) {
    if (!piece.samples) {
      return "";
    }
    const method = Report.method(j),
      line = Object.assign({ method: method, name: method.name }, piece.samples.own[j]);
    return el(
      "div",
      {},
      el("h2", {}, "Samples"),
      el("p", { class: "faint" }, READING),
      grid(piece.samples, [line], "Pictures that the adapted model draws"),
    );
  }

  Report.samples = { problem: ofProblem, cell: ofCell };
})();
