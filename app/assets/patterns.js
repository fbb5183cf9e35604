"use strict";
// Tokens that can be chosen, and lines between them. Text of models is only ever written as text.
(() => {
  const nothing = () => window.dash_clientside.no_update;
  const put = (target, prop, value) => window.dash_clientside.set_props(target, { [prop]: value });

  // ---- token strips
  document.addEventListener("click", (event) => {
    const chip = event.target.closest(".hs-token");
    const strip = chip && chip.closest("[data-target]");
    if (strip) put(strip.dataset.target, strip.dataset.prop, Number(chip.dataset.token));
  });
  document.addEventListener("keydown", (event) => {
    const chip = event.target.closest && event.target.closest(".hs-token");
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!chip || !by) return;
    event.preventDefault();
    const next = chip.parentElement.querySelector(`[data-token="${Number(chip.dataset.token) + by}"]`);
    if (next) next.focus();
  });

  // ---- lines: queries on the left, keys on the right
  const SVG = "http://www.w3.org/2000/svg";
  const ROW = 18, SIDE = 170, LONGEST = 20, TOP = 22;
  const node = (name, attributes, parent) => {
    const made = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    parent.append(made);
    return made;
  };
  const cut = (text) => (text.length > LONGEST ? text.slice(0, LONGEST - 1) + "…" : text);
  const tokenNode = (parent, text, place, side, x) => {
    const group = node("g", { class: "hs-line-token", tabindex: 0, role: "button", "data-side": side, "data-place": place }, parent);
    const y = TOP + ROW * place;
    node("rect", { x: side === "query" ? 0 : x - 4, y, width: SIDE, height: ROW, rx: 3 }, group);
    const word = node("text", { x, y: y + ROW * 0.72, "text-anchor": side === "query" ? "end" : "start" }, group);
    word.textContent = cut(text);
    group.setAttribute("aria-label", `${side} ${place} ${text}`);
    node("title", {}, group).textContent = `${side} ${place}: ${text}`;
    return group;
  };
  const scrolled = {};
  const drawLines = (host) => {
    const { tokens, edges, target, chosen } = JSON.parse(host.dataset.edges);
    const had = document.activeElement && host.contains(document.activeElement) ? document.activeElement.dataset : null;
    host.textContent = "";
    const width = Math.max(Math.min(host.clientWidth || 700, 900), 460);
    const box = document.createElement("div");
    box.className = "hs-lines-box";
    host.append(box);
    const svg = node("svg", { width, height: TOP + ROW * tokens.length + 6, role: "group" }, box);
    node("text", { x: SIDE - 8, y: 14, "text-anchor": "end", class: "hs-lines-title" }, svg).textContent = "query";
    node("text", { x: width - SIDE + 8, y: 14, class: "hs-lines-title" }, svg).textContent = "key";
    const paths = node("g", { class: "hs-lines-paths" }, svg);
    const largest = edges.length ? edges[0][2] : 1;
    const middle = (place) => TOP + ROW * (place + 0.5);
    edges.slice().reverse().forEach(([query, key, mass]) => {
      const share = mass / largest;
      node("line", {
        x1: SIDE, y1: middle(query), x2: width - SIDE, y2: middle(key), "data-query": query, "data-key": key,
        "stroke-opacity": (0.12 + 0.88 * share).toFixed(3), "stroke-width": (0.5 + 2.5 * share).toFixed(2),
      }, paths);
    });
    const said = document.createElement("p");
    said.className = "hs-lines-said";
    said.setAttribute("role", "status");
    host.append(said);
    tokens.forEach((text, place) => {
      tokenNode(svg, text, place, "query", SIDE - 8);
      tokenNode(svg, text, place, "key", width - SIDE + 8);
    });
    let kept = chosen === null ? null : ["query", chosen];
    const words = (focus) => {
      if (!focus) return "All lines are shown.";
      const [side, place] = focus;
      const own = edges.filter((edge) => edge[side === "query" ? 0 : 1] === place).slice(0, 6);
      const other = side === "query" ? 1 : 0;
      const list = own.map((edge) => `${edge[other]} '${tokens[edge[other]]}' ${edge[2].toFixed(3)}`).join(", ");
      return `${side} ${place} '${tokens[place]}': ${list || "no line"}`;
    };
    const show = (focus) => {
      svg.querySelectorAll("line").forEach((line) => {
        line.classList.toggle("hs-faded", Boolean(focus) && Number(line.dataset[focus[0]]) !== focus[1]);
      });
      svg.querySelectorAll(".hs-line-token").forEach((one) => {
        one.classList.toggle("hs-kept", Boolean(focus) && one.dataset.side === focus[0] && Number(one.dataset.place) === focus[1]);
      });
      said.textContent = words(focus);
    };
    const same = (a, b) => Boolean(a && b) && a[0] === b[0] && a[1] === b[1];
    const keep = (focus) => {
      const before = kept;
      kept = same(kept, focus) ? null : focus;
      show(kept);
      const [was, now] = [before, kept].map((one) => (one && one[0] === "query" ? one[1] : null));
      if (was !== now) put(target, "data", now);
    };
    const at = (event) => {
      const found = event.target.closest(".hs-line-token");
      return found ? [found.dataset.side, Number(found.dataset.place)] : null;
    };
    svg.addEventListener("pointerover", (event) => show(at(event) || kept));
    svg.addEventListener("pointerleave", () => show(kept));
    svg.addEventListener("focusin", (event) => show(at(event) || kept));
    svg.addEventListener("focusout", () => show(kept)); // also where a redraw has given the focus back
    svg.addEventListener("click", (event) => { const focus = at(event); if (focus) keep(focus); });
    host.onkeydown = (event) => {
      const focus = at(event);
      if ((event.key === "Enter" || event.key === " ") && focus) { event.preventDefault(); event.stopPropagation(); keep(focus); }
      if (event.key === "Escape" && kept) { event.stopPropagation(); keep(kept); }
    };
    show(kept);
    box.scrollTop = scrolled[host.id] || 0;
    box.addEventListener("scroll", () => { scrolled[host.id] = box.scrollTop; });
    if (had && had.side) {
      const again = svg.querySelector(`[data-side="${had.side}"][data-place="${had.place}"]`);
      if (again) again.focus({ preventScroll: true });
    }
    host.dataset.drawn = host.dataset.edges.length;
  };
  const drawn = new WeakMap();
  const drawAll = () => document.querySelectorAll(".hs-lines[data-edges]").forEach((host) => {
    if (drawn.get(host) === host.dataset.edges) return;
    drawn.set(host, host.dataset.edges);
    drawLines(host);
  });

  // ---- callbacks
  const HEAD = /^L(\d+)H(\d+)$/;
  const step = (back, on, head, layers, heads) => {
    const asked = window.dash_clientside.callback_context.triggered[0];
    const found = HEAD.exec(head || "") || [0, 0, 0];
    const [many, wide] = [Number(layers), Number(heads)];
    if (!asked || !many || !wide) return nothing();
    const by = asked.prop_id.startsWith("head-back") ? -1 : 1;
    const place = (Number(found[1]) * wide + Number(found[2]) + by + many * wide) % (many * wide);
    return `L${Math.floor(place / wide)}H${place % wide}`;
  };
  const clickedRow = (click) => {
    const point = click && click.points && click.points[0];
    return point && typeof point.y === "number" ? Math.floor(point.y) : nothing();
  };
  const zoomed = (relayout, rows, keys) => { // the window that a zoom asks for; empty is the whole text
    const ends = (axis) => {
      const [low, high] = [relayout[`${axis}.range[0]`], relayout[`${axis}.range[1]`]];
      const both = relayout[`${axis}.range`] || (low === undefined ? null : [low, high]);
      if (!both) return relayout[`${axis}.autorange`] ? [] : undefined;
      const sorted = [Number(both[0]), Number(both[1])].sort((a, b) => a - b);
      return [Math.max(Math.round(sorted[0] + 0.5), 0), Math.round(sorted[1] + 0.5)];
    };
    if (!relayout) return [nothing(), nothing()];
    const pick = (x, y) => { const found = ends(x); return found === undefined ? ends(y) : found; };
    const [across, down] = [pick("xaxis", "xaxis2"), pick("yaxis", "yaxis2")];
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const answer = (found, now) => (found === undefined || same(found, now || []) ? nothing() : found);
    return [answer(down, rows), answer(across, keys)];
  };

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.headscope_patterns = {
    step, clickedRow, zoomed,
    draw: () => { setTimeout(drawAll, 0); setTimeout(drawAll, 120); return nothing(); },
    whole: (clicks) => (clicks ? [[], []] : [nothing(), nothing()]),
  };
})();
