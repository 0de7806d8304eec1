"use strict";
// Runs before the page is drawn, so that it never shows in the wrong colours first.
(function () {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // null: what the system says
  try {
    chosen = window.localStorage.getItem("lowrank-bench-theme");
  } catch (error) {
    /* pages from disk may have no storage */
  }

  function current() {
    return chosen || (system.matches ? "dark" : "light");
  }
  function apply() {
    document.documentElement.dataset.theme = current();
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = current() === "dark" ? "Light theme" : "Dark theme";
    }
    document.dispatchEvent(new Event("themechange"));
  }
  function toggle() {
    chosen = current() === "dark" ? "light" : "dark";
    try {
      window.localStorage.setItem("lowrank-bench-theme", chosen);
    } catch (error) {
      /* then it lasts as long as the page */
    }
    apply();
  }

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", function () {
    document.getElementById("theme").addEventListener("click", toggle);
    apply();
  });
})();
