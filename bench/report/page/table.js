"use strict";
// Tables that sort by a click on a heading, and a large one that the arrow keys walk through.

// columns: {label, title, value(row), text(row) or cell(row), number, infinite}; a row is anything.
// options: {caption, first: sort column, descending, limit, empty, grid}
Report.table = function (columns, rows, options) {
  const el = Report.el,
    body = el("tbody"),
    heads = [];
  let by = options.first === undefined ? null : options.first,
    down = Boolean(options.descending),
    limit = options.limit || Infinity;

  function compare(a, b) {
    const x = columns[by].value(a),
      y = columns[by].value(b);
    const blank = [x, y].map((each) => each === null || each === undefined || each === "");
    if (blank[0] || blank[1]) {
      return blank[0] - blank[1];
    } // what is not there comes last either way
    const order =
      typeof x === "number"
        ? x < y
          ? -1
          : x > y
            ? 1
            : 0
        : String(x).localeCompare(String(y), "en", { numeric: true });
    return down ? -order : order;
  }

  function line(row) {
    const tr = el("tr");
    columns.forEach(function (column, i) {
      const content = column.cell
        ? column.cell(row)
        : column.text
          ? column.text(row)
          : Report.number(column.value(row), column.infinite);
      const attributes = { class: column.number ? "number" : null };
      tr.append(
        i === 0 ? el("th", Object.assign({ scope: "row" }, attributes), content) : el("td", attributes, content),
      );
    });
    return tr;
  }

  function draw() {
    const ordered = by === null ? rows : rows.slice().sort(compare);
    body.replaceChildren.apply(body, ordered.slice(0, limit).map(line));
    if (!rows.length) {
      body.append(el("tr", {}, el("td", { colspan: columns.length }, options.empty || "Nothing to show.")));
    }
    more.hidden = rows.length <= limit;
    more.textContent = "Show all " + rows.length + " rows";
    heads.forEach(function (head, i) {
      if (i === by) {
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      } else {
        head.removeAttribute("aria-sort");
      }
    });
    if (options.grid) {
      Report.arrows(table);
    }
  }

  function sort(i) {
    down = by === i ? !down : false;
    by = i;
    draw();
    Report.say("Sorted by " + columns[i].label + (down ? ", descending" : ", ascending"));
  }

  columns.forEach(function (column, i) {
    const button = el(
      "button",
      {
        type: "button",
        title: column.title,
        on: {
          click: function () {
            sort(i);
          },
        },
      },
      column.label,
      el("span", { class: "arrow", "aria-hidden": "true" }),
    );
    heads.push(el("th", { scope: "col", class: column.number ? "number" : null }, button));
  });
  const more = el("button", {
    type: "button",
    class: "more",
    on: {
      click: function () {
        limit = Infinity;
        draw();
      },
    },
  });
  const table = el(
    "table",
    { class: options.grid ? "grid" : null },
    el("caption", { class: options.quiet ? "hidden" : null }, options.caption),
    el("thead", {}, el("tr", {}, heads)),
    body,
  );
  draw();
  return el(
    "div",
    {},
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": options.caption }, table),
    more,
  );
};

// One stop for the Tab key; from there the arrow keys go from cell to cell.
Report.arrows = function (table) {
  const places = Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.querySelector("a")));
  places.flat().forEach(function (link) {
    if (link) {
      link.tabIndex = -1;
    }
  });
  const first = places.flat().find(Boolean);
  if (first) {
    first.tabIndex = 0;
  }
  table.tBodies[0].onkeydown = function (event) {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] },
      move = moves[event.key];
    const link = event.target.closest("a");
    if (!move || !link) {
      return;
    }
    let row = link.closest("tr").sectionRowIndex,
      column = link.closest("td, th").cellIndex,
      next = null;
    do {
      // cells that were not run are stepped over
      row += move[0];
      column += move[1];
      next = (places[row] || [])[column];
    } while (!next && places[row] && column >= 0 && column < places[row].length);
    if (next) {
      event.preventDefault();
      link.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  };
};
