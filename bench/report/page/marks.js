"use strict";
// What is drawn over uPlot's lines: markers, crosses for seeds that diverged, triangles for lines that leave, shaded windows.
(function () {
  const MARKED = 7; // markers a line, about

  function ink(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function drawable(value, log) {
    if (value === null || !Number.isFinite(value)) {
      return null;
    }
    return log ? Math.max(value, Report.smallest) : value;
  }

  function stamp(u, path, x, y, size, fill, stroke) {
    const context = u.ctx,
      ratio = devicePixelRatio;
    if (
      x < u.bbox.left - 1 ||
      x > u.bbox.left + u.bbox.width + 1 ||
      y < u.bbox.top - 1 ||
      y > u.bbox.top + u.bbox.height + 1
    ) {
      return;
    }
    context.save();
    context.translate(x, y);
    context.scale(size * ratio, size * ratio);
    context.lineWidth = (stroke ? 1.6 : 0.5) / size;
    context.strokeStyle = stroke || ink("--surface");
    if (fill) {
      context.fillStyle = fill;
      context.fill(path);
    }
    context.stroke(path);
    context.restore();
  }

  function markers(u, spec) {
    spec.lines.forEach(function (line, i) {
      if (!line.shown || !line.method) {
        return;
      }
      const colour = Report.colour(line.method),
        shape = new Path2D(Report.shape(line.method.marker)),
        every = Math.max(1, Math.ceil(line.x.length / MARKED));
      line.x.forEach(function (x, k) {
        const y = drawable(line.m[k], spec.y.log),
          chosen = line.ring === x;
        if (y === null || (k % every !== i % every && !chosen)) {
          return;
        }
        const size = chosen ? 7 : 3.6,
          stroke = chosen ? ink("--ink") : line.method.hollow ? colour : null;
        stamp(
          u,
          shape,
          u.valToPos(x, "x", true),
          u.valToPos(y, "y", true),
          size,
          line.method.hollow ? ink("--surface") : colour,
          stroke,
        );
      });
    });
  }

  // A row at the top for each line that diverges: a cross for every seed, at the step where it was lost.
  function crosses(u, spec) {
    const path = new Path2D("M-1-1L1 1M-1 1L1-1");
    spec.lines
      .filter((line) => line.shown && line.at && line.at.length)
      .forEach(function (line, row) {
        const y = u.bbox.top + (9 + 9 * (row % 12)) * devicePixelRatio;
        line.at.forEach(function (x) {
          stamp(u, path, u.valToPos(x, "x", true), y, 3.2, null, Report.colour(line.method));
        });
      });
  }

  // A triangle on the edge where a line leaves by it, at the point that lies furthest beyond.
  function exits(u, spec) {
    const low = u.scales.y.min,
      high = u.scales.y.max;
    for (const line of spec.lines) {
      if (!line.shown || !line.method) {
        continue;
      }
      const values = line.m.map((value) => drawable(value, spec.y.log));
      const numbers = values.filter((value) => value !== null);
      for (const side of [
        [Math.min.apply(null, numbers), "v", low],
        [Math.max.apply(null, numbers), "^", high],
      ]) {
        if (side[1] === "v" ? side[0] < side[2] : side[0] > side[2]) {
          const y =
            side[1] === "v" ? u.bbox.top + u.bbox.height - 6 * devicePixelRatio : u.bbox.top + 6 * devicePixelRatio;
          stamp(
            u,
            new Path2D(Report.shape(side[1])),
            u.valToPos(line.x[values.lastIndexOf(side[0])], "x", true),
            y,
            5,
            Report.colour(line.method),
            null,
          );
        }
      }
    }
  }

  function shades(u, spec) {
    for (const shade of spec.shades ? spec.shades() : []) {
      const left = Math.max(u.valToPos(shade.low, "x", true), u.bbox.left),
        right = Math.min(u.valToPos(shade.high, "x", true), u.bbox.left + u.bbox.width);
      u.ctx.fillStyle = shade.colour + "24";
      u.ctx.fillRect(left - 1, u.bbox.top, right - left + 2, u.bbox.height);
    }
  }

  Report.ink = ink;
  Report.drawable = drawable;
  Report.marks = { markers: markers, crosses: crosses, exits: exits, shades: shades };
})();
