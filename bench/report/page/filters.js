"use strict";
// What of the overview is shown: words searched for, and boxes for problems, parameterizations and optimizers.
(function () {
  const el = Report.el;

  function unique(values) {
    return Array.from(new Set(values)).sort();
  }

  function axes() {
    const data = Report.pieces.overview;
    return {
      problem: data.problems.map((problem) => problem.name),
      parameterization: unique(data.methods.map((method) => method.parameterization)),
      optimizer: unique(data.methods.map((method) => method.optimizer)),
    };
  }

  // What is left out stands in the address, so that a link shows the same.
  Report.excluded = function (axis) {
    return new Set(Report.state.getAll("no-" + axis));
  };

  Report.chosen = function () {
    const data = Report.pieces.overview,
      words = Report.get("search", "").toLowerCase().split(/\s+/).filter(Boolean);
    const gone = {
      problem: Report.excluded("problem"),
      parameterization: Report.excluded("parameterization"),
      optimizer: Report.excluded("optimizer"),
    };
    function found(problem, method) {
      const text = (problem + " " + method).toLowerCase();
      return words.every((word) => text.includes(word));
    }
    const problems = [],
      methods = [];
    data.problems.forEach(function (problem, i) {
      if (!gone.problem.has(problem.name)) {
        problems.push(i);
      }
    });
    data.methods.forEach(function (method, i) {
      if (!gone.parameterization.has(method.parameterization) && !gone.optimizer.has(method.optimizer)) {
        methods.push(i);
      }
    });
    const pairs = [];
    for (const i of problems) {
      for (const j of methods) {
        if (found(data.problems[i].name, data.methods[j].name)) {
          pairs.push([i, j]);
        }
      }
    }
    const kept = [0, 1].map((side) => new Set(pairs.map((pair) => pair[side])));
    return {
      problems: problems.filter((i) => kept[0].has(i)),
      methods: methods.filter((j) => kept[1].has(j)),
      has: (i, j) => found(data.problems[i].name, data.methods[j].name),
    };
  };

  function boxes(axis, names, changed) {
    const gone = Report.excluded(axis),
      title = axis[0].toUpperCase() + axis.slice(1) + "s";
    const summary = el("summary", {});
    function count() {
      summary.textContent = title + ": " + (names.length - gone.size) + " of " + names.length;
    }
    function store() {
      count();
      Report.set({ ["no-" + axis]: Array.from(gone) });
      changed();
    }
    const list = names.map(function (name) {
      return el(
        "label",
        { class: "box" },
        el("input", {
          type: "checkbox",
          value: name,
          checked: !gone.has(name),
          on: {
            change: function (event) {
              if (event.target.checked) {
                gone.delete(name);
              } else {
                gone.add(name);
              }
              store();
            },
          },
        }),
        " " + name,
      );
    });
    function all(on) {
      return el(
        "button",
        {
          type: "button",
          class: "plain",
          on: {
            click: function () {
              names.forEach(function (name) {
                if (on) {
                  gone.delete(name);
                } else {
                  gone.add(name);
                }
              });
              list.forEach(function (label) {
                label.firstChild.checked = on;
              });
              store();
            },
          },
        },
        on ? "All" : "None",
      );
    }
    count();
    return el(
      "details",
      { class: "boxes" },
      summary,
      el(
        "fieldset",
        {},
        el("legend", { class: "hidden" }, title),
        el("div", { class: "both" }, all(true), all(false)),
        list,
      ),
    );
  }

  Report.filters = function (changed) {
    const found = axes(),
      search = el("input", { type: "search", id: "search", value: Report.get("search", ""), autocomplete: "off" });
    search.addEventListener("input", function () {
      Report.set({ search: search.value || null });
      changed();
    });
    return el(
      "form",
      {
        class: "filters",
        role: "search",
        "aria-label": "What to show",
        on: {
          submit: function (event) {
            event.preventDefault();
          },
        },
      },
      el("div", { class: "control" }, el("label", { for: "search" }, "Search names"), search),
      Object.keys(found).map((axis) => boxes(axis, found[axis], changed)),
    );
  };
})();
