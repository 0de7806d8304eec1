"use strict";
// All problems at once: performance profiles, and the probability of improvement over a baseline.
(function () {
  const el = Report.el,
    SHOWN = 8;
  let figure = null;

  function methodNamed(name) {
    return Report.pieces.overview.methods.find((method) => method.name === name);
  }

  function profile(data, place, redraw) {
    const target = Report.get("target", "steps_to_1e-02"),
      found = data.profiles.targets[target];
    const options = Report.pieces.overview.measures
      .filter((each) => each.id in data.profiles.targets)
      .map((each) => [each.id, each.words]);
    const order = data.methods
      .map((_, i) => i)
      .sort(function (a, b) {
        const x = found.shares[a],
          y = found.shares[b];
        const sum = function (all) {
          return all.reduce((total, each) => total + each, 0);
        };
        return sum(y) - sum(x);
      });
    const lines = order.map(function (i, rank) {
      return {
        method: methodNamed(data.methods[i]),
        name: data.methods[i],
        x: data.profiles.factors,
        m: found.shares[i],
        shown: rank < SHOWN,
      };
    });
    const spec = {
      title: "Performance profile",
      infinite: "infinite",
      lines: lines,
      rest: "Within any factor up to " + data.profiles.factors[data.profiles.factors.length - 1],
      band:
        "share of " +
        Report.plural(found.instances, "instance") +
        " (problem and seed) solved within a factor of the fewest steps; " +
        found.solved +
        " of them are solved by some method",
      x: { words: "factor of the fewest steps", name: "factor", scale: "log" },
      y: { words: "share of instances", log: false, range: [0, 1.02] },
    };
    if (figure) {
      figure.destroy();
    }
    figure = Report.figure(spec);
    place.replaceChildren(
      el(
        "div",
        { class: "controls" },
        Report.select("Target", options, target, function (value) {
          Report.set({ target: value });
          redraw();
        }),
      ),
      figure.element,
    );
    figure.draw();
  }

  function bar(triple) {
    const percent = function (share) {
      return (100 * share).toFixed(1) + "%";
    };
    return el(
      "span",
      { class: "chance", "aria-hidden": "true" },
      el("span", { class: "half" }),
      triple.length > 1
        ? el("span", { class: "range", style: "left:" + percent(triple[1]) + ";right:" + percent(1 - triple[2]) })
        : null,
      el("span", { class: "point", style: "left:" + percent(triple[0]) }),
    );
  }

  function improvement(data, place, redraw) {
    const measure = Report.get("ranked", "headline"),
      found = data.improvement[measure],
      common = "lora + adam";
    const usual = data.methods.includes(common) ? common : found.best;
    const baseline = data.methods.includes(Report.get("baseline")) ? Report.get("baseline") : usual;
    const j = data.methods.indexOf(baseline),
      intervals = found.intervals[baseline];
    const rows = data.methods.map((_, i) => i).filter((i) => i !== j);
    const triple = function (i) {
      return intervals ? intervals[i] : [found.matrix[i][j]];
    };
    const words = Report.pieces.overview.measures
      .filter((each) => each.id in data.improvement)
      .map((each) => [each.id, each.words]);
    const columns = [
      {
        label: "Method",
        value: (i) => data.methods[i],
        cell: (i) => [Report.swatch(methodNamed(data.methods[i])), data.methods[i]],
      },
      {
        label: "Better than " + baseline,
        number: true,
        value: (i) => triple(i)[0],
        text: (i) => (intervals ? Report.interval(triple(i)) : Report.number(triple(i)[0])),
      },
      {
        label: "From 0 to 1",
        value: (i) => triple(i)[0],
        cell: (i) => bar(triple(i)),
      },
      {
        label: "Better than the others, mean",
        number: true,
        value: (i) => found.means[i],
      },
    ];
    const again = function (name) {
      return function (value) {
        Report.set({ [name]: value });
        redraw();
      };
    };
    place.replaceChildren(
      el(
        "div",
        { class: "controls" },
        Report.select(
          "Baseline",
          data.methods.map((name) => [name, name]),
          baseline,
          again("baseline"),
        ),
        Report.select("Measure", words, measure, again("ranked")),
      ),
      el(
        "p",
        {},
        "Most often better than the others: ",
        el("strong", {}, found.best),
        ". ",
        intervals
          ? ""
          : "Intervals are worked out for the errors, beside " +
              Object.keys(data.improvement.headline.intervals).join(" and ") +
              " only.",
      ),
      Report.table(columns, rows, {
        caption: "Probability that a run ends lower than one of " + baseline + " does, mean over problems",
        first: 1,
        descending: true,
        limit: 60,
      }),
    );
  }

  function show(section) {
    const profiles = el("div", {}),
      chances = el("div", {}),
      note = el("p", { class: "lead" }, "Reading data/across.js …");
    section.replaceChildren(
      el("h1", { tabindex: "-1" }, "All problems at once"),
      note,
      el("h2", {}, "How often the fastest, and how often there at all"),
      profiles,
      el("h2", {}, "Probability of improvement"),
      chances,
    );
    return Report.load("across").then(function (data) {
      if (!note.isConnected) {
        return;
      }
      note.textContent =
        "Over " +
        Report.plural(data.problems.length, "problem") +
        " that all of " +
        Report.plural(data.methods.length, "method") +
        " ran on with the same seeds.";
      if (data.left_out.length) {
        note.after(
          el(
            "details",
            {},
            el(
              "summary",
              {},
              Report.plural(data.left_out.length, "method") + " left out: an oracle, or run on too few problems",
            ),
            el(
              "ul",
              { class: "others" },
              data.left_out.map(function (each) {
                return el("li", {}, each.method + ": " + Report.plural(each.problems, "problem"));
              }),
            ),
          ),
        );
      }
      if (!data.profiles) {
        profiles.replaceChildren(
          el("p", { class: "note" }, "This takes two methods at least, and problems that they share."),
        );
        return;
      }
      const first = function () {
          profile(data, profiles, first);
        },
        second = function () {
          improvement(data, chances, second);
        };
      first();
      second();
    });
  }

  Report.views.across = { show: show };
})();
