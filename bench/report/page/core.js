"use strict";
// The one global object: what was received, how numbers are written, how elements are made, and where in the report one is.
window.Report = { views: {}, pieces: {}, waiting: {}, state: new URLSearchParams() };

// --- data: every piece is a script that calls receive(); files may not be read where a page is opened from disk
Report.receive = function (name, content) {
  Report.pieces[name] = content;
};

Report.load = function (name) {
  if (name in Report.pieces) {
    return Promise.resolve(Report.pieces[name]);
  }
  if (!(name in Report.waiting)) {
    Report.waiting[name] = new Promise(function (resolve, reject) {
      const tag = document.createElement("script");
      tag.src = "data/" + name + ".js";
      tag.onload = function () {
        resolve(Report.pieces[name]);
      };
      tag.onerror = function () {
        delete Report.waiting[name];
        reject(
          new Error(
            "data/" + name + ".js is missing beside index.html: copy the whole folder, or write the report again.",
          ),
        );
      };
      document.head.append(tag);
    });
  }
  return Report.waiting[name];
};

// --- numbers
Report.number = function (value, infinite) {
  if (typeof value === "string") {
    return value;
  }
  if (value === null || value === undefined || Number.isNaN(value)) {
    return "";
  }
  if (!Number.isFinite(value)) {
    return infinite || "infinite";
  }
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    return value
      .toExponential(2)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  }
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
};

Report.interval = function (triple, infinite) {
  const ends = Report.number(triple[1], infinite) + ", " + Report.number(triple[2], infinite);
  return Report.number(triple[0], infinite) + " [" + ends + "]";
};

Report.decades = function (value) {
  return Report.number(value) + (value === 1 ? " decade" : " decades");
};

Report.plural = function (count, one, many) {
  return count + " " + (count === 1 ? one : many || one + "s");
};

// --- elements; text is always set as text, never as HTML: names come from whoever wrote the configuration
Report.el = function (tag, attributes) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") {
      for (const [event, action] of Object.entries(value)) {
        element.addEventListener(event, action);
      }
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  for (const child of Array.prototype.slice.call(arguments, 2).flat(Infinity)) {
    if (child !== null && child !== undefined && child !== "") {
      element.append(child);
    }
  }
  return element;
};

let labels = 0;
Report.select = function (label, options, chosen, change) {
  const el = Report.el,
    id = "choice-" + ++labels;
  const choice = el(
    "select",
    {
      id: id,
      on: {
        change: function () {
          change(choice.value);
        },
      },
    },
    options.map(function (option) {
      return el("option", { value: option[0], selected: option[0] === chosen }, option[1]);
    }),
  );
  return el("div", { class: "control" }, el("label", { for: id }, label), choice);
};

Report.say = function (text) {
  document.getElementById("status").textContent = text;
};

// --- where one is: the address after #, such as view=problem&problem=hilbert
Report.get = function (name, otherwise) {
  return Report.state.has(name) ? Report.state.get(name) : otherwise;
};

Report.address = function (values) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const each of [value].flat()) {
      if (each !== null && each !== undefined) {
        found.append(name, each);
      }
    }
  }
  return "#" + found.toString();
};

// Changes some of the state and draws; without a new entry in the browser's history, for what is only a setting of a view.
Report.set = function (changes) {
  const values = {};
  for (const name of Report.state.keys()) {
    values[name] = Report.state.getAll(name);
  }
  const hash = Report.address(Object.assign(values, changes));
  window.history.replaceState(null, "", hash);
  Report.state = new URLSearchParams(hash.slice(1));
};

Report.cellAddress = function (key) {
  return Report.address({ view: "cell", cell: key });
};

Report.problemAddress = function (problem, chart, more) {
  return Report.address(Object.assign({ view: "problem", problem: problem, chart: chart }, more));
};

// --- the overview's columns, cell by cell
Report.index = function () {
  const cells = Report.pieces.overview.cells,
    found = { at: {}, byKey: {} };
  cells.key.forEach(function (key, i) {
    found.at[cells.problem[i] + " " + cells.method[i]] = i;
    found.byKey[key] = i;
  });
  return found;
};

Report.cellAt = function (problem, method) {
  return Report.places.at[problem + " " + method];
};

Report.method = function (i) {
  return Report.pieces.overview.methods[i];
};

Report.problemIndex = function (name) {
  return Report.pieces.overview.problems.findIndex((problem) => problem.name === name);
};

Report.colour = function (method) {
  return method[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
};
