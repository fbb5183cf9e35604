"use strict";
// The browser's part of the frame: the address mirrors the state, links, panel actions, keys.
(() => {
  const set = (id, props) => window.dash_clientside.set_props(id, props);
  const pageNow = () => document.querySelector("[data-spec]");
  const specNow = () => { const page = pageNow(); return page ? JSON.parse(page.dataset.spec) : null; };

  // ---- state and address
  const text = (value) => {
    if (Array.isArray(value)) return value.join(",");
    if (typeof value === "boolean") return value ? "1" : "0";
    return value === null || value === undefined ? "" : String(value);
  };
  const untext = (value, like) => {
    if (Array.isArray(like)) return value === "" ? [] : value.split(",");
    if (typeof like === "boolean") return value === "1" || value === "true";
    if (typeof like === "number") return value === "" ? like : Number(value);
    return value;
  };
  const mirror = (...values) => {
    const spec = JSON.parse(values.pop());
    const query = new URLSearchParams();
    spec.fields.forEach((field, index) => {
      const value = values[index];
      if (value === undefined || value === null) return;
      if (text(value) !== text(field.default)) query.set(field.name, text(value));
    });
    const search = query.toString();
    arrived(spec.page, query.get("head"));
    if (location.pathname === spec.path) {
      history.replaceState(history.state, "", spec.path + (search ? "?" + search : "") + location.hash);
    }
    document.querySelectorAll(".hs-nav").forEach((nav) => {
      if (nav.dataset.page === spec.page) nav.setAttribute("aria-current", "page");
      else nav.removeAttribute("aria-current");
    });
    return search;
  };
  const setField = (name, value) => {
    const spec = specNow();
    const field = spec && spec.fields.find((one) => one.name === name);
    if (field) set(`${spec.page}-${name}`, { [field.prop]: value });
    return Boolean(field);
  };
  const fieldNow = (name) => new URLSearchParams(location.search).get(name);

  // Heads that keys have asked for and that the address does not show yet: fast presses go on from the last of them.
  const LONGEST_WAIT = 3000;
  let asked = { page: "", heads: [], at: 0 };
  function arrived(page, head) {
    if (asked.page !== page || !asked.heads.includes(head) || asked.heads[asked.heads.length - 1] === head) asked.heads = [];
  }
  const askHead = (head) => {
    const page = specNow() && specNow().page;
    if (asked.page !== page) asked.heads = [];
    asked = { page, heads: [...asked.heads, head], at: Date.now() };
    setField("head", head);
  };
  const headNow = () => {
    const spec = specNow();
    const waits = spec && asked.page === spec.page && asked.heads.length && Date.now() - asked.at < LONGEST_WAIT;
    if (waits) return asked.heads[asked.heads.length - 1];
    const shown = document.querySelector("[data-effective]"); // the head that stands in for an empty field
    return fieldNow("head") || (shown ? shown.dataset.effective : "");
  };

  // ---- going to another page without loading everything anew
  const go = (href) => {
    const target = new URL(href, location.href);
    const spec = specNow();
    if (spec && target.pathname === spec.path && target.pathname === location.pathname) {
      spec.fields.forEach((field) => {
        const given = target.searchParams.get(field.name);
        if (given === null && field.name === "head") return; // a link that names no head keeps the one in view
        const props = { [field.prop]: given === null ? field.default : untext(given, field.default) };
        if (text(props[field.prop]) !== (fieldNow(field.name) ?? text(field.default))) {
          set(`${spec.page}-${field.name}`, props);
        }
      });
      return;
    }
    history.pushState({}, "", target.pathname + target.search + target.hash);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  };
  const follow = (link) => {
    const target = new URL(link.href, location.href);
    if (link.classList.contains("hs-nav")) { // the menu keeps to the run and head in view
      ["run", "head"].forEach((name) => {
        const value = fieldNow(name);
        if (value && !target.searchParams.has(name)) target.searchParams.set(name, value);
      });
      if (target.pathname === location.pathname) return;
    }
    go(target.href);
  };

  // ---- panels
  const say = (message) => {
    const box = document.createElement("div");
    box.className = "hs-toast";
    box.setAttribute("role", "status");
    box.textContent = message;
    document.body.append(box);
    setTimeout(() => box.remove(), 2500);
  };
  const panelOf = (button) => document.getElementById(`${button.dataset.page}-${button.dataset.panel}`);
  const plotOf = (panel) => panel.querySelector(".js-plotly-plot");
  const exportFile = async (button, form) => {
    const href = `/data/${button.dataset.page}/${button.dataset.panel}.${form}${location.search}`;
    const answer = await fetch(href);
    if (!answer.ok) { say(await answer.text()); return; }
    const link = URL.createObjectURL(await answer.blob());
    const anchor = document.createElement("a");
    anchor.href = link;
    anchor.download = `headscope-${button.dataset.page}-${button.dataset.panel}.${form}`;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(link), 10000);
  };
  const picture = async (button, form) => {
    const plot = plotOf(panelOf(button));
    if (!plot || panelOf(button).querySelector(".hs-plot").style.display === "none") {
      say("There is no picture to save yet.");
      return;
    }
    const dark = document.documentElement.dataset.mantineColorScheme === "dark";
    const shown = {
      data: plot.data,
      layout: { ...plot.layout, paper_bgcolor: dark ? "#1c2026" : "#ffffff", font: { ...plot.layout.font, color: dark ? "#d6dade" : "#333a42" } },
    };
    const size = { width: plot.clientWidth, height: plot.clientHeight, format: form, scale: form === "png" ? 2 : 1 };
    const href = await window.Plotly.toImage(shown, size);
    const anchor = document.createElement("a");
    anchor.href = href;
    anchor.download = `headscope-${button.dataset.page}-${button.dataset.panel}.${form}`;
    anchor.click();
  };
  const actions = {
    csv: (button) => exportFile(button, "csv"),
    json: (button) => exportFile(button, "json"),
    png: (button) => picture(button, "png"),
    svg: (button) => picture(button, "svg"),
    numbers: (button) => set("numbers-ask", {
      data: { page: button.dataset.page, panel: button.dataset.panel, search: location.search, at: Date.now() },
    }),
    link: async (button) => {
      const href = location.href.split("#")[0] + "#" + panelOf(button).id;
      try { await navigator.clipboard.writeText(href); say("Link copied."); } catch { window.prompt("Copy this link", href); }
    },
    full: async (button) => {
      if (document.fullscreenElement) await document.exitFullscreen();
      else {
        const plot = plotOf(panelOf(button));
        if (plot && plot._fullLayout) heights.set(plot, plot._fullLayout.height);
        await panelOf(button).requestFullscreen();
      }
    },
  };

  // ---- figures follow the width of their box; their height is their own
  const fitted = (box) => {
    const plot = box.querySelector(".js-plotly-plot");
    const wide = Math.floor(box.clientWidth);
    if (!plot || !plot.data || !plot._fullLayout || !wide || Math.abs(plot._fullLayout.width - wide) < 2) return;
    const height = plot.layout.height || plot._fullLayout.height; // without it plotly takes the box's, which collapses
    window.Plotly.relayout(plot, { width: wide, height }).then(() => { delete plot.layout.width; });
  };
  const widths = new ResizeObserver((entries) => requestAnimationFrame(() => entries.forEach((entry) => fitted(entry.target))));
  const known = new WeakSet();
  const watchBoxes = () => document.querySelectorAll(".hs-plot").forEach((box) => {
    if (known.has(box)) return;
    known.add(box);
    widths.observe(box);
  });
  new MutationObserver(watchBoxes).observe(document.documentElement, { childList: true, subtree: true });

  // ---- full screen: the figure takes what heading, caption and source leave, and gets its own size back afterwards
  let grown = null;
  const heights = new WeakMap();
  const outer = (element) => {
    const style = getComputedStyle(element);
    return style.display === "none" ? 0 : element.offsetHeight + parseFloat(style.marginTop) + parseFloat(style.marginBottom);
  };
  const roomIn = (panel) => {
    const style = getComputedStyle(panel);
    const rest = [...panel.children].filter((part) => !part.classList.contains("hs-plot"));
    const used = rest.reduce((sum, part) => sum + outer(part), 0) + parseFloat(style.paddingTop) + parseFloat(style.paddingBottom);
    return Math.floor(panel.clientHeight - used);
  };
  const resized = (plot, height) => {
    const width = Math.floor(plot.closest(".hs-plot").clientWidth);
    window.Plotly.relayout(plot, { height, width }).then(() => { delete plot.layout.width; });
  };
  const shrink = () => {
    const { plot, own } = grown;
    plot.removeListener("plotly_afterplot", growSoon);
    grown = null;
    if (plot.isConnected && plot.data) resized(plot, own);
  };
  const grow = () => {
    const panel = document.fullscreenElement;
    if (grown && grown.panel !== panel) shrink();
    const plot = panel && panel.classList.contains("hs-panel") && plotOf(panel);
    if (!plot || !plot.data || !plot.layout || plot.offsetParent === null) return;
    if (!grown) {
      grown = { panel, plot, own: heights.get(plot) || plot.layout.height, height: plot.layout.height };
      plot.on("plotly_afterplot", growSoon);
    }
    const { height } = plot.layout;
    if (height && height !== grown.height) grown.own = height; // the server sent a new figure
    const wanted = Math.max(roomIn(panel), grown.own);
    if (height === wanted) return;
    grown.height = wanted;
    resized(plot, wanted);
  };
  function growSoon() { requestAnimationFrame(() => requestAnimationFrame(grow)); }
  document.addEventListener("fullscreenchange", growSoon);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action]");
    if (button && actions[button.dataset.action]) actions[button.dataset.action](button);
    document.querySelectorAll(".hs-export-menu[open]").forEach((menu) => {
      if (!menu.contains(event.target) || button) menu.open = false;
    });
    const link = event.target.closest("a.hs-link");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      follow(link);
    }
  });

  // ---- heads: a map of layers x heads that has the focus is walked with the arrow keys
  const HEAD = /^L(\d+)H(\d+)$/;
  const gridNow = () => document.querySelector("[data-layers][data-heads]");
  const moved = (layers, heads, steps) => {
    const found = HEAD.exec(headNow() || "");
    if (!found) return "L0H0";
    const [layer, head] = [Number(found[1]) + steps[0], Number(found[2]) + steps[1]];
    const clip = (value, count) => Math.min(Math.max(value, 0), count - 1);
    return `L${clip(layer, layers)}H${clip(head, heads)}`;
  };
  const stepHead = (steps) => {
    const grid = gridNow();
    if (grid) askHead(moved(Number(grid.dataset.layers), Number(grid.dataset.heads), steps));
  };
  const nextHead = (by) => { // through all heads, layer by layer
    const grid = gridNow();
    if (!grid) return;
    const [layers, heads] = [Number(grid.dataset.layers), Number(grid.dataset.heads)];
    const found = HEAD.exec(headNow() || "") || [0, 0, 0];
    const place = (Number(found[1]) * heads + Number(found[2]) + by + layers * heads) % (layers * heads);
    askHead(`L${Math.floor(place / heads)}H${place % heads}`);
  };
  const openHead = () => {
    const query = new URLSearchParams();
    [["run", fieldNow("run")], ["head", headNow()]].forEach(([name, value]) => { if (value) query.set(name, value); });
    if (query.has("head")) go("/head?" + query.toString());
  };
  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const PAGES = { r: "/", h: "/heads", d: "/head", l: "/lab", p: "/patterns", c: "/compare", i: "/circuit", o: "/codes", k: "/policies", v: "/variants", j: "/jobs", u: "/guide" };
  let waitsForPage = false;
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const typing = target.closest("input, textarea, select, [contenteditable], [role=combobox], [role=grid], [role=dialog]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (waitsForPage && PAGES[event.key]) {
      waitsForPage = false;
      const nav = document.querySelector(`.hs-nav[href="${PAGES[event.key]}"]`);
      if (nav) follow(nav);
      return;
    }
    waitsForPage = event.key === "g";
    const onMap = target.closest("[data-keys=heads]");
    if (onMap && ARROWS[event.key]) { event.preventDefault(); stepHead(ARROWS[event.key]); }
    else if (onMap && event.key === "Enter") openHead();
    else if (event.key === "[") nextHead(-1);
    else if (event.key === "]") nextHead(1);
    else if (event.key === "?") set("keys-box", { opened: true });
    else if (event.key === "/") {
      const first = document.querySelector("main input, main textarea");
      if (first) { event.preventDefault(); first.focus(); }
    }
  });

  // ---- figures
  const marks = new Map();
  const markHead = (head, _figure, graphId) => { // a frame around the chosen head, drawn without asking the server
    const found = HEAD.exec(head || "");
    const turn = (marks.get(graphId) || 0) + 1;
    marks.set(graphId, turn);
    const draw = () => {
      const plot = document.querySelector(`#${graphId} .js-plotly-plot`);
      if (marks.get(graphId) !== turn) return true; // a newer head is marked
      if (!plot || !plot.layout || !plot.data || !plot.data.length || !window.Plotly) return false;
      const shapes = (plot.layout.shapes || []).filter((shape) => shape.name !== "chosen");
      if (found) {
        const [layer, column] = [Number(found[1]), Number(found[2])];
        const box = { type: "rect", name: "chosen", x0: column - 0.5, x1: column + 0.5, y0: layer - 0.5, y1: layer + 0.5 };
        const maps = plot.data.filter((trace) => trace.type === "heatmap" || trace.type === "image");
        maps.forEach((trace) => {
          const place = { ...box, xref: trace.xaxis || "x", yref: trace.yaxis || "y" };
          const [outer, inner] = maps.length > 1 ? [3, 2] : [5, 3];
          shapes.push({ ...place, line: { color: "#000000", width: outer } }, { ...place, line: { color: "#ff7f0e", width: inner } });
        });
      }
      window.Plotly.relayout(plot, { shapes });
      return true;
    };
    const again = (left) => { if (!draw() && left) setTimeout(() => again(left - 1), 150); }; // until it is drawn at all
    setTimeout(() => again(40), 0);
    setTimeout(draw, 150);
    return window.dash_clientside.no_update;
  };
  const clickedHead = (click) => {
    const point = click && click.points && click.points[0];
    if (!point) return window.dash_clientside.no_update;
    if (typeof point.customdata === "string" && HEAD.test(point.customdata)) return point.customdata;
    if (Array.isArray(point.customdata) && HEAD.test(point.customdata[0])) return point.customdata[0];
    return typeof point.y === "number" && typeof point.x === "number" ? `L${point.y}H${point.x}` : window.dash_clientside.no_update;
  };

  // ---- a server that does not answer: said on every page
  const SILENT = "The server does not answer. What is on screen is its last answer.";
  let heardAt = Date.now();
  const heard = (isThere) => {
    heardAt = Date.now();
    const banner = document.getElementById("hs-silent");
    if (isThere && banner) banner.remove();
    if (isThere || banner) return;
    const made = document.createElement("div");
    made.id = "hs-silent";
    made.setAttribute("role", "alert");
    document.body.append(made);
    made.textContent = SILENT;
  };
  const plainFetch = window.fetch.bind(window);
  const ask = async () => {
    try { const answer = await plainFetch("/status.json"); heard(true); return answer; } catch (error) { heard(false); throw error; }
  };
  window.fetch = (...given) => plainFetch(...given).then((answer) => { heard(true); return answer; }, (error) => {
    if (error.name !== "AbortError") ask().catch(() => {});
    throw error;
  });
  setInterval(() => {
    if (!document.hidden && Date.now() - heardAt > 4500) ask().catch(() => {});
  }, 5000);

  // ---- while a page waits for the model
  setInterval(async () => {
    const line = document.querySelector(".hs-live");
    if (!line || document.hidden) return;
    try {
      const status = await (await ask()).json();
      const words = { off: "", ready: status.model ? `${status.model} is loaded` : "", failed: status.message };
      const shown = words[status.state] ?? [status.model, status.message || status.state].filter(Boolean).join(": ");
      if (line.textContent !== shown) line.textContent = shown;
      line.dataset.state = status.state;
    } catch { line.textContent = "The server does not answer: is it still running?"; line.dataset.state = "failed"; }
  }, 700);

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.headscope = {
    mirror, markHead, clickedHead,
    tab: () => {
      window.headscopeTab = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2);
      return window.headscopeTab;
    },
    openKeys: () => true,
    sayThreshold: (value, isOff) => {
      if (isOff) return "Threshold (this score makes no class)";
      return typeof value === "number" ? `Threshold ${Number(value.toPrecision(6))}` : "Threshold";
    },
  };
  window.headscope = { set, setField, fieldNow, headNow, go, say };
})();
