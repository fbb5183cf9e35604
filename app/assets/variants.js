"use strict";
// The steps of a training: a button that plays them, and arrow keys while the matrices have the focus.
(() => {
  const PAUSE = 420;
  let timer = null;
  const bar = () => document.getElementById("variants-scrub");
  const stepsNow = () => (bar() && bar().dataset.steps ? bar().dataset.steps.split(",").map(Number) : []);
  const valueNow = () => {
    const thumb = bar() && bar().querySelector("[role=slider]");
    return thumb ? Number(thumb.getAttribute("aria-valuenow")) : NaN;
  };
  const drawn = () => {
    const shown = document.querySelector("#variants-matrices-body .variants-shown");
    return shown ? Number(shown.dataset.step) : NaN;
  };
  const placeOf = (value, steps) => steps.filter((step) => step <= value).length - 1;
  const say = (isPlaying) => {
    const button = document.getElementById("variants-play");
    if (button) { button.textContent = isPlaying ? "Stop" : "Play"; button.setAttribute("aria-pressed", String(isPlaying)); }
  };
  const stop = () => { clearInterval(timer); timer = null; say(false); };
  const go = (by) => {
    const steps = stepsNow();
    const next = Math.min(Math.max(placeOf(valueNow(), steps) + by, 0), steps.length - 1);
    if (steps.length) window.headscope.setField("step", steps[next]);
  };
  const tick = () => {
    const steps = stepsNow();
    if (!bar() || !steps.length) { stop(); return; }
    if (drawn() !== valueNow()) return; // the last step is still on its way
    if (valueNow() >= steps[steps.length - 1]) { stop(); return; }
    go(1);
  };
  const play = () => {
    const steps = stepsNow();
    if (timer) { stop(); return; }
    if (valueNow() >= steps[steps.length - 1]) window.headscope.setField("step", steps[0]);
    timer = setInterval(tick, PAUSE);
    say(true);
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest("#variants-play")) play();
    const jump = event.target.closest("a.variants-jump");
    if (!jump || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault(); // a new hash would make the page anew
    document.querySelector(jump.hash).scrollIntoView();
  });
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !target.closest("[data-keys=steps]")) return;
    if (target.closest("[role=slider], input, textarea, [role=dialog]")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); go(by); }
  });
})();
