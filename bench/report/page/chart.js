"use strict";
// uPlot with medians and bands, on axes that show most of them.
(function () {
  const ink = Report.ink,
    drawable = Report.drawable;
  const PER_LINE = 3; // series a line has: median, upper and lower edge of its band
  const NEAR = 40; // pixels to the nearest point, at most
  const CROWD = 8; // lines from which on bands are fainter

  // All lines on one sorted abscissa: undefined where a line has no point (drawn through), null where it has no number (a gap).
  function joined(lines, log) {
    const xs = Array.from(new Set(lines.flatMap((line) => line.x))).sort((a, b) => a - b);
    const place = new Map(xs.map((x, i) => [x, i])),
      data = [xs];
    for (const line of lines) {
      for (const values of [line.m, line.h || line.m, line.l || line.m]) {
        const column = new Array(xs.length);
        line.x.forEach(function (x, i) {
          column[place.get(x)] = drawable(values[i], log);
        });
        data.push(column);
      }
    }
    return data;
  }

  function scales(spec, crosses) {
    const log = spec.y.log,
      room = function () {
        return crosses() ? 0.03 + 0.028 * Math.min(crosses(), 12) : 0.02;
      };
    function range(u, low, high) {
      if (spec.y.range) {
        return spec.y.range;
      }
      if (low === null || high === null) {
        return log ? [0.1, 1] : [0, 1];
      }
      if (!log) {
        const wide = high - low || Math.abs(high) || 1;
        return [low - 0.04 * wide, high + (0.04 + room()) * wide];
      }
      const view = spec.y.view && low <= spec.y.view[1] && high >= spec.y.view[0] ? spec.y.view : [0, Infinity];
      const foot = Math.max(low / 1.25, view[0]),
        top = Math.max(foot * 1.5, Math.min(high * 1.15, view[1]));
      return [foot, top * Math.pow(top / foot, room())];
    }
    const across = {
      linear: {
        distr: 1,
        range: function (u, low, high) {
          const wide = high - low || 1;
          return [low - 0.01 * wide, high + 0.02 * wide];
        },
      },
      log: {
        distr: 3,
        log: 10,
        range: (u, low, high) => [low / 1.2, Math.max(high, low) * 1.2],
      },
      symlog: {
        distr: 4,
        asinh: spec.x.threshold,
        range: (u, low, high) => [low > 0 ? low : -0.1 * spec.x.threshold, high * 1.1],
      },
    }[spec.x.scale];
    return { x: Object.assign({ time: false }, across), y: { distr: log ? 3 : 1, log: 10, range: range } };
  }

  function axis(words, side, splits) {
    const found = {
      label: words,
      labelSize: 22,
      labelFont: "13px system-ui, sans-serif",
      font: "12px system-ui, sans-serif",
      stroke: ink("--ink"),
      side: side,
      grid: { stroke: ink("--grid"), width: 1 },
      ticks: { stroke: ink("--grid"), width: 1 },
      size: side === 3 ? 56 : 34,
      values: (u, marks) => marks.map(Report.tick),
    };
    return splits
      ? Object.assign(found, {
          splits: splits,
          filter: (u, marks) => marks,
        })
      : found;
  }

  function axes(spec) {
    const logarithmic = function (u, i, low, high) {
      return Report.logTicks(low, high);
    };
    const x = {
      log: logarithmic,
      symlog: (u, i, low, high) => Report.symlogTicks(spec.x.threshold, high),
    }[spec.x.scale];
    return [axis(spec.x.words, 2, x), axis(spec.y.words, 3, spec.y.log ? logarithmic : null)];
  }

  // Bands are fainter where there are many.
  function alpha(lines) {
    const shown = lines.filter((line) => line.shown).length;
    return Math.round(38 * Math.min(1, CROWD / Math.max(1, shown)))
      .toString(16)
      .padStart(2, "0");
  }

  function series(lines) {
    const found = [{}],
      bands = [];
    lines.forEach(function (line, i) {
      const colour = line.method ? Report.colour(line.method) : ink("--ink"),
        edge = { show: line.shown, stroke: "transparent", width: 0, points: { show: false } };
      found.push(
        {
          show: line.shown,
          stroke: colour,
          width: line.method ? 1.8 : 1.4,
          dash: line.method ? line.method.dash : [6, 4],
          points: { show: false },
        },
        edge,
        Object.assign({}, edge),
      );
      if (line.l) {
        bands.push({
          series: [PER_LINE * i + 2, PER_LINE * i + 3],
          fill: () => colour + alpha(lines),
        });
      }
    });
    return { series: found, bands: bands };
  }

  function size(holder) {
    const width = Math.max(240, holder.clientWidth);
    return { width: width, height: Math.round(Math.max(260, Math.min(460, 0.6 * width))) };
  }

  Report.chart = function (holder, spec) {
    const styled = series(spec.lines),
      rows = function () {
        return spec.lines.filter((line) => line.shown && line.at && line.at.length).length;
      };
    const plot = new uPlot(
      Object.assign(size(holder), {
        series: styled.series,
        bands: styled.bands,
        scales: scales(spec, rows),
        axes: axes(spec),
        legend: { show: false },
        focus: { alpha: 0.2 },
        padding: [8, 12, 0, 0],
        cursor: { points: { show: false }, focus: { prox: -1 }, drag: { x: true, y: false } },
        hooks: {
          drawAxes: [
            function (u) {
              Report.marks.shades(u, spec);
            },
          ],
          draw: [
            function (u) {
              Report.marks.markers(u, spec);
              Report.marks.exits(u, spec);
              Report.marks.crosses(u, spec);
            },
          ],
          setCursor: [
            function (u) {
              spec.read(u.cursor.left >= 0 && u.cursor.idx !== null ? u.data[0][u.cursor.idx] : null);
            },
          ],
        },
      }),
      joined(spec.lines, spec.y.log),
      holder,
    );
    let width = holder.clientWidth;
    const observer = new ResizeObserver(function () {
      if (holder.clientWidth && holder.clientWidth !== width) {
        width = holder.clientWidth;
        plot.setSize(size(holder));
      }
    });
    observer.observe(holder);

    return {
      plot: plot,
      // The place of the line's point that is nearest to x on the axis; null where none is near.
      nearest: function (line, x) {
        let best = null,
          least = NEAR;
        const at = plot.valToPos(x, "x");
        line.x.forEach(function (each, i) {
          const away = Math.abs(plot.valToPos(each, "x") - at);
          if (away < least) {
            best = i;
            least = away;
          }
        });
        return best;
      },
      toggle: function () {
        plot.batch(function () {
          spec.lines.forEach(function (line, i) {
            for (let k = 1; k <= PER_LINE; k++) {
              if (plot.series[PER_LINE * i + k].show !== line.shown) {
                plot.setSeries(PER_LINE * i + k, { show: line.shown });
              }
            }
          });
        });
      },
      focus: function (i) {
        plot.setSeries(i === null ? null : PER_LINE * i + 1, { focus: i !== null });
      },
      move: function (x) {
        plot.setCursor(
          x === null
            ? { left: -10, top: -10 }
            : { left: plot.valToPos(x, "x"), top: plot.bbox.height / devicePixelRatio / 2 },
        );
      },
      whole: function () {
        plot.setData(plot.data);
      },
      destroy: function () {
        observer.disconnect();
        plot.destroy();
      },
    };
  };
})();
