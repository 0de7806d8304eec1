"use strict";
// Where the marks on an axis stand, and a method's marker as a path.
(function () {
  const MOST = 7,
    SMALLEST = 1e-16;
  const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  Report.smallest = SMALLEST; // what is below, zero included, is drawn here on a logarithmic axis

  function powers(low, high) {
    const first = Math.ceil(Math.log10(low) - 1e-9),
      last = Math.floor(Math.log10(high) + 1e-9),
      found = [];
    const stride = Math.max(1, Math.ceil((last - first + 1) / MOST));
    for (let power = first; power <= last; power++) {
      if (power % stride === 0) {
        found.push(Number("1e" + power));
      }
    }
    return found;
  }

  // Powers of ten where there are two of them or more; else round numbers.
  Report.logTicks = function (low, high) {
    const found = powers(low, high);
    if (found.length >= 2) {
      return found;
    }
    for (const digits of [
      [1, 2, 5],
      [1, 1.5, 2, 3, 5, 7],
      [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9],
    ]) {
      const between = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const digit of digits) {
          const value = Number(digit + "e" + power);
          if (value >= low && value <= high) {
            between.push(value);
          }
        }
      }
      if (between.length >= 3) {
        return between.slice(0, 2 * MOST).filter((_, i) => between.length <= MOST || i % 2 === 0);
      }
    }
    return linear(low, high);
  };

  function linear(low, high) {
    const step = Math.pow(10, Math.floor(Math.log10((high - low) / 3 || 1))),
      found = [];
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      found.push(value);
    }
    return found.slice(0, 3 * MOST).filter((_, i) => found.length <= MOST || i % 3 === 0);
  }

  // Zero, then powers of ten from the threshold on: an axis that is logarithmic but has a beginning.
  Report.symlogTicks = function (threshold, high) {
    return [0].concat(powers(threshold, high));
  };

  Report.tick = function (value) {
    if (value === 0) {
      return "0";
    }
    const power = Math.log10(Math.abs(value));
    if (Number.isInteger(Math.round(power * 1e9) / 1e9) && (power < -3 || power > 4)) {
      return "10" + String(Math.round(power)).replace(/./g, (digit) => raised[digit]);
    }
    return Report.number(value);
  };

  // Markers by matplotlib's letters, about (0, 0), to be scaled by their radius.
  const shapes = {
    o: "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
    s: "M-.9-.9H.9V.9H-.9Z",
    "^": "M0-1.1L1 .8H-1Z",
    D: "M0-1.2L1.2 0L0 1.2L-1.2 0Z",
    v: "M0 1.1L1-.8H-1Z",
    P: "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    X: "M-1.1-.6L-.6-1.1L0-.5L.6-1.1L1.1-.6L.5 0L1.1 .6L.6 1.1L0 .5L-.6 1.1L-1.1 .6L-.5 0Z",
    "<": "M-1.1 0L.8-1V1Z",
    ">": "M1.1 0L-.8-1V1Z",
    p: "M0-1.1L1.05-.34L.65 .9H-.65L-1.05-.34Z",
  };
  Report.shape = function (letter) {
    return shapes[letter] || shapes.o;
  };

  // A piece of the method's line with its marker, for legends and tables.
  Report.swatch = function (method) {
    const space = "http://www.w3.org/2000/svg",
      svg = document.createElementNS(space, "svg");
    function part(tag, values) {
      const each = document.createElementNS(space, tag);
      for (const name of Object.keys(values)) {
        each.setAttribute(name, values[name]);
      }
      svg.append(each);
    }
    const colour = Report.colour(method);
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "0 0 44 12");
    svg.setAttribute("aria-hidden", "true");
    part("path", {
      d: "M1 6H43",
      stroke: colour,
      "stroke-width": 2,
      "stroke-dasharray": method.dash.join(" "),
      fill: "none",
    });
    part("path", {
      d: Report.shape(method.marker),
      transform: "translate(22 6) scale(4)",
      fill: method.hollow ? "var(--surface)" : colour,
      stroke: colour,
      "stroke-width": 0.3,
    });
    return svg;
  };
})();
