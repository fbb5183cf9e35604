"use strict";
(() => {
  const root = document.documentElement;
  const config = JSON.parse(document.getElementById("plot-config").textContent);
  const plots = [...document.querySelectorAll("figure.plot")];
  const drawn = new Map();

  const colour = (name) => {
    const probe = document.body.appendChild(document.createElement("span"));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  // Figures come with colours for any page; these few follow the theme.
  const themed = (layout) => {
    const grid = colour("--line"), ink = colour("--ink-soft");
    const changes = {
      "font.color": ink, "modebar.color": ink, "modebar.activecolor": colour("--ink"), "legend.font.color": ink, "hoverlabel.bgcolor": colour("--paper"),
      "hoverlabel.bordercolor": grid, "hoverlabel.font.color": colour("--ink"),
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      changes[`${axis}.gridcolor`] = grid;
      changes[`${axis}.linecolor`] = grid;
    }
    return changes;
  };

  const draw = (figure) => {
    if (drawn.has(figure)) return;
    const area = figure.querySelector(".area");
    const { data, layout } = JSON.parse(figure.querySelector("script.data").textContent);
    drawn.set(figure, area);
    Plotly.newPlot(area, data, layout, config);
    Plotly.relayout(area, themed(layout));
  };

  const restyle = () => drawn.forEach((area) => Plotly.relayout(area, themed(area.layout)));

  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      draw(entry.target);
    }),
    { rootMargin: "800px 0px" },
  );
  plots.forEach((figure) => near.observe(figure));
  // What is in sight is drawn first, the rest in the pauses after.
  const drawRest = () => {
    const next = plots.find((figure) => !drawn.has(figure));
    if (!next) return;
    draw(next);
    setTimeout(drawRest, 30);
  };
  addEventListener("load", () => setTimeout(drawRest, 300));

  const button = document.querySelector("button.theme");
  const themes = ["system", "light", "dark"];
  const apply = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    restyle();
  };
  button.hidden = false;
  button.textContent = `Theme: ${root.dataset.theme ?? "system"}`;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme ?? "system") + 1) % themes.length];
    apply(next);
    try { localStorage.setItem("headscope-theme", next); } catch { /* not kept, still applied */ }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);

  let before = "system";
  addEventListener("beforeprint", () => {
    before = root.dataset.theme ?? "system";
    plots.forEach(draw);
    apply("light");
  });
  addEventListener("afterprint", () => apply(before));

  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const spy = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }),
    { rootMargin: "-15% 0px -75% 0px" },
  );
  links.forEach((_, id) => { const target = document.getElementById(id); if (target) spy.observe(target); });
})();
