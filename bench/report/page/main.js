"use strict";
// Starts the page and follows the address: every view has show(section), which draws what the state says.
(function () {
  const names = {
    overview: "Overview",
    problem: "Problems",
    across: "All problems at once",
    cell: "Cell",
    help: "How to read this",
  };
  let shown = null;

  function trouble(error) {
    const place = document.getElementById("trouble");
    place.textContent = error.message;
    place.hidden = false;
    Report.broken = error;
  }

  function viewName() {
    const asked = Report.get(
      "view",
      Report.state.has("cell") ? "cell" : Report.state.has("problem") ? "problem" : "overview",
    );
    return asked in names ? asked : "overview";
  }

  function mark(view) {
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.dataset.view === view) {
        link.setAttribute("aria-current", "page");
      } else {
        link.removeAttribute("aria-current");
      }
    }
    for (const section of document.querySelectorAll("main > section")) {
      section.hidden = section.id !== view;
    }
  }

  function follow() {
    Report.state = new URLSearchParams(location.hash.slice(1));
    const view = viewName(),
      section = document.getElementById(view),
      before = shown;
    document.getElementById("trouble").hidden = true;
    mark(view);
    shown = location.hash;
    const drawn = Report.views[view] ? Report.views[view].show(section) : null;
    Promise.resolve(drawn)
      .then(function () {
        if (shown !== location.hash && before !== null) {
          return;
        } // something else was asked for meanwhile
        const heading = section.querySelector("h1");
        document.title = (heading ? heading.textContent : names[view]) + " · lowrank-bench";
        if (before !== null && heading) {
          window.scrollTo(0, 0);
          heading.focus({ preventScroll: true });
        }
      })
      .catch(trouble);
  }

  Report.load("overview")
    .then(function (data) {
      Report.places = Report.index();
      document.getElementById("sweep").textContent = data.sweep;
      document.getElementById("made").textContent =
        Report.plural(data.cells.key.length, "cell") +
        " of the sweep “" +
        data.sweep +
        "”: " +
        Report.plural(data.problems.length, "problem") +
        " × " +
        Report.plural(data.methods.length, "method") +
        ". Drawn from files beside this page; nothing is fetched from a network.";
      window.addEventListener("hashchange", follow);
      document.querySelector(".skip").addEventListener("click", function (event) {
        event.preventDefault(); // the address stays that of what is shown
        document.getElementById("main").focus();
      });
      document.addEventListener("themechange", function () {
        if (Report.views[viewName()]) {
          Report.views[viewName()].show(document.getElementById(viewName()));
        }
      });
      follow();
    })
    .catch(trouble);
})();
