"use strict";
// A chart in words and as a table, for who cannot see it or wants the numbers.
(function () {
  function last(line) {
    for (let i = line.m.length - 1; i >= 0; i--) {
      if (line.m[i] !== null) {
        return line.m[i];
      }
    }
    return null;
  }

  // One sentence or two in place of the picture.
  function summary(spec) {
    const shown = spec.lines.filter((line) => line.shown && line.method);
    const ends = shown.map((line) => [line.name, last(line)]).filter((end) => end[1] !== null);
    ends.sort((a, b) => a[1] - b[1]);
    const said =
      "Lines of " + Report.plural(shown.length, "method") + ": " + spec.y.words + " against " + spec.x.words + ". ";
    if (!ends.length) {
      return said + "Nothing was measured.";
    }
    const tell = function (end) {
      return end[0] + " with " + Report.number(end[1], spec.infinite);
    };
    return (
      said +
      "At the right end the lowest is " +
      tell(ends[0]) +
      (ends.length > 1 ? ", the highest " + tell(ends[ends.length - 1]) : "") +
      "."
    );
  }

  function tableOf(spec) {
    const shown = spec.lines.filter((line) => line.shown);
    const xs = Array.from(new Set(shown.flatMap((line) => line.x))).sort((a, b) => a - b);
    const places = shown.map((line) => new Map(line.x.map((x, i) => [x, i])));
    const columns = [
      {
        label: spec.x.words,
        number: true,
        value: (x) => x,
      },
    ].concat(
      shown.map(function (line, k) {
        return {
          label: line.name,
          number: true,
          value: (x) => line.m[places[k].get(x)],
          text: function (x) {
            const i = places[k].get(x);
            if (i === undefined) {
              return "";
            }
            const triple = [line.m, line.l || line.m, line.h || line.m].map((values) => values[i]);
            return (
              (line.l ? Report.interval(triple, spec.infinite) : Report.number(triple[0], spec.infinite)) +
              (line.note ? line.note(i) : "")
            );
          },
        };
      }),
    );
    return Report.table(columns, xs, { caption: spec.title + ": " + spec.band });
  }

  Report.words = { last: last, summary: summary, table: tableOf };
})();
