"use strict";
// For each problem the answer in words and numbers. All of it was worked out before; here it is put into sentences.
(function () {
  const el = Report.el,
    FEW = 4;

  function methodLink(problem, name) {
    const overview = Report.pieces.overview,
      i = overview.problems.indexOf(problem);
    const j = overview.methods.findIndex((method) => method.name === name);
    return el(
      "a",
      { href: Report.cellAddress(overview.cells.key[Report.cellAt(i, j)]) },
      Report.swatch(overview.methods[j]),
      name,
    );
  }

  function use(problem, found) {
    return el(
      "p",
      { class: "use" },
      el("strong", {}, methodLink(problem, found.best)),
      ": " + problem.headline + " ",
      el("span", { class: "figure" }, Report.interval(found.value, "diverged")),
      ", median of " + Report.plural(found.seeds, "seed"),
    );
  }

  function others(problem, found) {
    if (!found.same.length) {
      return found.worse
        ? "none: " +
            (found.worse === 1 ? "one other method is" : found.worse + " other methods are") +
            " worse on the same seeds"
        : "there is no other";
    }
    const items = found.same.map(function (each) {
      const verdict = each.verdict === "inconclusive" ? "open" : each.verdict;
      return el(
        "li",
        {},
        methodLink(problem, each.method),
        " " + Report.number(each.value[0], "diverged"),
        el("span", { class: "faint" }, " (" + Report.interval(each.ratio) + " × the best, " + verdict + ")"),
      );
    });
    const rest = items.slice(FEW);
    return [
      el("ul", { class: "others" }, items.slice(0, FEW)),
      rest.length
        ? el(
            "details",
            {},
            el("summary", {}, Report.plural(rest.length, "more method")),
            el("ul", { class: "others" }, rest),
          )
        : null,
      found.worse ? el("p", { class: "faint" }, Report.plural(found.worse, "other is", "others are") + " worse") : null,
    ];
  }

  function rate(found) {
    const decades =
      Number.isFinite(found.window.decades) && found.window.ratio !== 1
        ? ", window of " + Report.decades(found.window.decades)
        : "";
    return [
      el("span", { class: "care care-" + found.window.care.split(" ")[0] }, found.window.care),
      " " + found.window.reading + " (chosen " + Report.number(found.window.chosen) + decades + ")",
    ];
  }

  function advice(problem, found) {
    const lines = [];
    if (Number.isFinite(found.fastest.steps[0])) {
      lines.push([
        methodLink(problem, found.fastest.method),
        " is the fastest: " + Report.interval(found.fastest.steps, "never") + " steps to 1 %",
      ]);
    } else {
      lines.push("None of these gets down to 1 % of the excess loss");
    }
    if (found.same.length && found.widest.method !== found.best && found.widest.decades > found.window.decades) {
      lines.push([methodLink(problem, found.widest.method), " is the most forgiving: " + found.widest.reading]);
    }
    return el(
      "ul",
      { class: "others" },
      lines.map(function (line) {
        return el("li", {}, line);
      }),
    );
  }

  function block(problem, title, found) {
    if (!found.best) {
      return el(
        "div",
        {},
        el("h3", {}, title),
        el("p", {}, "No method: all " + found.candidates + " diverged on half of the seeds or more."),
      );
    }
    return el(
      "div",
      { class: "answer" },
      el("h3", {}, title),
      use(problem, found),
      el(
        "dl",
        {},
        el("dt", {}, "Learning rate"),
        el("dd", {}, rate(found)),
        el("dt", {}, "Not distinguishable from it"),
        el("dd", {}, others(problem, found)),
        el("dt", {}, found.same.length ? "Among these" : "How fast"),
        el("dd", {}, advice(problem, found)),
        found.unreliable.length
          ? [el("dt", {}, "Diverged on half of the seeds or more"), el("dd", {}, found.unreliable.join(", "))]
          : null,
        found.unpaired.length
          ? [el("dt", {}, "Not compared"), el("dd", {}, found.unpaired.join(", ") + ": other seeds")]
          : null,
      ),
    );
  }

  function card(problem) {
    const both = Boolean(problem.answers.bounded),
      links = [
        ["curves", "Curves"],
        ["sensitivity", "Rates"],
        ["condition", "Conditions"],
        ["spectra", "Spectrum"],
      ];
    return el(
      "article",
      { class: "card" },
      el("h2", {}, el("a", { href: Report.problemAddress(problem.name) }, problem.name)),
      el("p", { class: "faint" }, problem.about),
      problem.answers.bounded ? block(problem, "Best where the rank is bounded", problem.answers.bounded) : null,
      block(problem, both ? "Best of all, the rank without a bound" : "Best method", problem.answers.all),
      el(
        "p",
        { class: "links" },
        links.map(function (link) {
          return [el("a", { href: Report.problemAddress(problem.name, link[0]) }, link[1]), " "];
        }),
      ),
    );
  }

  Report.answers = function (problems) {
    const FIRST = 12,
      el = Report.el,
      holder = el("div", { class: "cards" }, problems.slice(0, FIRST).map(card));
    const more = el(
      "button",
      {
        type: "button",
        class: "more",
        hidden: problems.length <= FIRST,
        on: {
          click: function () {
            holder.append.apply(holder, problems.slice(FIRST).map(card));
            more.hidden = true;
          },
        },
      },
      "Show the answers for all " + problems.length + " problems",
    );
    return el("div", {}, holder, more);
  };
})();
