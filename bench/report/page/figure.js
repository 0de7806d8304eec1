"use strict";
// A chart with what makes it usable: a legend of switches that tells the values, keys, and its words and table.
(function () {
  const el = Report.el;

  function legendItem(spec, line, i, act) {
    const value = el("span", { class: "value" });
    const button = el(
      "button",
      {
        type: "button",
        "aria-pressed": String(line.shown),
        on: {
          click: function () {
            line.shown = !line.shown;
            act.changed();
          },
          mouseenter: function () {
            act.focus(i);
          },
          mouseleave: function () {
            act.focus(null);
          },
          focus: function () {
            act.focus(i);
          },
          blur: function () {
            act.focus(null);
          },
        },
      },
      line.method ? Report.swatch(line.method) : el("span", { class: "swatch target" }),
      el("span", { class: "name" }, line.name),
      value,
    );
    return { item: el("li", {}, button), button: button, value: value };
  }

  // spec: title, band, lines, x, y, infinite, and optionally changed(), told(line) for what stands in the legend without a cursor.
  Report.figure = function (spec) {
    const words = el("p", { class: "hidden", id: "summary" }),
      where = el("p", { class: "where" }),
      table = el("div", {});
    const holder = el("div", {
      class: "plot",
      tabindex: "0",
      role: "group",
      "aria-label": spec.title + ". Left and right arrow keys read values.",
      "aria-describedby": "summary",
    });
    let chart = null,
      focused = null,
      at = null,
      open = false;
    const act = {
      changed: changed,
      focus: function (i) {
        focused = i;
        if (chart) {
          chart.focus(i);
          if (spec.shades) {
            chart.plot.redraw();
          }
        }
      },
    };
    const items = spec.lines.map((line, i) => legendItem(spec, line, i, act));
    spec.focused = function () {
      return focused;
    };

    spec.read = function (x) {
      at = x;
      where.textContent = x === null ? spec.rest || "At the end" : "At " + spec.x.name + " " + Report.number(x);
      items.forEach(function (item, i) {
        const line = spec.lines[i],
          k = x === null || !chart ? line.m.length - 1 : chart.nearest(line, x);
        const value =
          x === null ? (spec.told ? spec.told(line) : Report.words.last(line)) : k === null ? null : line.m[k];
        item.value.textContent = line.shown ? Report.number(value, spec.infinite) : "";
      });
    };

    function changed() {
      items.forEach(function (item, i) {
        item.button.setAttribute("aria-pressed", String(spec.lines[i].shown));
      });
      words.textContent = Report.words.summary(spec);
      if (chart) {
        chart.toggle();
      }
      spec.read(at);
      if (open) {
        table.replaceChildren(Report.words.table(spec));
      }
      if (spec.changed) {
        spec.changed();
      }
    }

    function showOnly(test) {
      return function () {
        spec.lines.forEach(function (line, i) {
          line.shown = test(line, i);
        });
        changed();
      };
    }

    function key(event) {
      const guide = spec.lines.find((line) => line.shown && line.x.length);
      if (!guide) {
        return;
      }
      let i = at === null ? -1 : chart.nearest(guide, at);
      if (i === null) {
        i = 0;
      }
      const to = {
        ArrowRight: Math.min(i + 1, guide.x.length - 1),
        ArrowLeft: Math.max(i - 1, 0),
        Home: 0,
        End: guide.x.length - 1,
      }[event.key];
      if (event.key === "Escape") {
        chart.move(null);
      } else if (to === undefined) {
        return;
      } else {
        chart.move(guide.x[to]);
        const shown = spec.lines
          .map((line, k) => [line, items[k].value.textContent])
          .filter((pair) => pair[0].shown && pair[1]);
        Report.say(
          where.textContent +
            ": " +
            shown
              .slice(0, 8)
              .map((pair) => pair[0].name + " " + pair[1])
              .join(", "),
        );
      }
      event.preventDefault();
    }
    holder.addEventListener("keydown", key);

    const button = function (label, action, more) {
      return el("button", Object.assign({ type: "button", class: "plain", on: { click: action } }, more), label);
    };
    const toggle = button(
      "Show as table",
      function () {
        open = !open;
        toggle.textContent = open ? "Hide the table" : "Show as table";
        toggle.setAttribute("aria-expanded", String(open));
        table.replaceChildren(open ? Report.words.table(spec) : "");
      },
      { "aria-expanded": "false" },
    );
    const figure = el(
      "figure",
      { class: "chart" },
      el("figcaption", {}, el("strong", {}, spec.title), " ", el("span", { class: "faint" }, spec.band)),
      words,
      el(
        "div",
        { class: "beside" },
        holder,
        el(
          "div",
          { class: "legend" },
          where,
          el(
            "ul",
            { "aria-label": "Methods shown" },
            items.map((item) => item.item),
          ),
          el(
            "div",
            { class: "both" },
            button(
              "All",
              showOnly(() => true),
            ),
            button(
              "None",
              showOnly(() => false),
            ),
            button(
              "First 8",
              showOnly((line, i) => i < 8 || !line.method),
            ),
          ),
        ),
      ),
      el(
        "div",
        { class: "both" },
        toggle,
        button("Reset zoom", function () {
          chart.whole();
        }),
      ),
      table,
    );
    return {
      element: figure,
      // Once it stands in the page and has a width.
      draw: function () {
        chart = Report.chart(holder, spec);
        words.textContent = Report.words.summary(spec);
        spec.read(null);
        Report.drawn = chart;
      },
      destroy: function () {
        if (chart) {
          chart.destroy();
        }
      },
    };
  };
})();
