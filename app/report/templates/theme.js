"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("headscope-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* no storage for local files: the system's theme it is */ }
})();
