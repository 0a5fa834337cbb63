"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  };

  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const raw = $("raw-json");
  if (raw) raw.addEventListener("toggle", () => {
    const shown = raw.querySelector("pre");
    if (raw.open && !shown.textContent) shown.textContent = JSON.stringify(JSON.parse($("data").textContent), null, 2);
  });

  for (const table of document.querySelectorAll("table[data-search]")) {
    const words = $(table.dataset.search), outcome = $(table.dataset.outcome), told = $(table.dataset.told);
    const rows = [...table.tBodies[0].rows];
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !(wanted.every((word) => text.includes(word)) && (!outcome || !outcome.value || row.dataset.outcome === outcome.value));
        shown += !row.hidden;
      }
      told.textContent = `${shown} of ${rows.length}`;
    };
    words.addEventListener("input", filter);
    if (outcome) outcome.addEventListener("change", filter);
    filter();
  }

  const source = $("network"), canvas = $("canvas");
  if (!source || !canvas) return;
  const { nodes, edges, cell } = JSON.parse(source.textContent);
  const [WIDE, HIGH] = [cell[0] - 14, cell[1] - 8];
  const world = make("g", {}, canvas), lines = make("g", {}, world), boxes = make("g", {}, world);
  const drawn = edges.map(([from, to]) => {
    const x1 = nodes[from][2] + WIDE / 2, y1 = nodes[from][3] + HIGH, x2 = nodes[to][2] + WIDE / 2, y2 = nodes[to][3];
    const straight = x1 === x2 && y2 > y1 && y2 - y1 < cell[1];
    const bend = y2 > y1 ? Math.min(40, (y2 - y1) / 2) : 24, side = x1 === x2 && !straight ? WIDE * .62 : 0;
    const d = straight ? `M${x1} ${y1}V${y2}` : `M${x1} ${y1}C${x1 + side} ${y1 + bend} ${x2 + side} ${y2 - bend} ${x2} ${y2}`;
    return make("path", { d }, lines);
  });
  const MARKS = { folded: "F", "part-folded": "P", lowered: "L", converted: "C", quantized: "Q", kept: "K" };
  const shapes = nodes.map(([name, operator, x, y, fate], index) => {
    const group = make("g", { class: `node ${fate}`, transform: `translate(${x} ${y})`, "data-index": index }, boxes);
    make("rect", { width: WIDE, height: HIGH, rx: 4 }, group);
    const label = (fate ? `${MARKS[fate] || "?"} ` : "") + operator;
    make("text", { x: 7, y: HIGH / 2 + 4 }, group).textContent = label.length > 22 ? label.slice(0, 21) + "…" : label;
    make("title", {}, group).textContent = `${name} (${operator})${fate ? ": " + fate : ""}`;
    return group;
  });
  const extent = [Math.max(...nodes.map((n) => n[2])) + cell[0], Math.max(...nodes.map((n) => n[3])) + cell[1]];
  let [scale, left, top] = [1, 0, 0];
  let touched = false;
  const draw = () => {
    touched = true;
    world.setAttribute("transform", `translate(${left} ${top}) scale(${scale})`);
    canvas.classList.toggle("far", scale < .45);
  };
  const zoom = (factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
    const next = Math.min(4, Math.max(.02, scale * factor));
    left = x - (x - left) * next / scale;
    top = y - (y - top) * next / scale;
    scale = next;
    draw();
  };
  const fit = () => {
    scale = Math.min(1.4, (canvas.clientWidth - 24) / extent[0], (canvas.clientHeight - 24) / extent[1]);
    left = (canvas.clientWidth - extent[0] * scale) / 2;
    top = (canvas.clientHeight - extent[1] * scale) / 2;
    draw();
    touched = false;
  };
  let selected = -1;
  const told = $("node");
  const select = (index, centre) => {
    if (selected >= 0) shapes[selected].classList.remove("selected");
    drawn.forEach((path, at) => path.classList.toggle("near", edges[at].includes(index)));
    selected = index;
    const [name, operator, x, y, fate, note, took] = nodes[index];
    shapes[index].classList.add("selected");
    told.replaceChildren();
    const head = document.createElement("p"), body = document.createElement("p");
    const strong = document.createElement("b"), rest = document.createElement("span");
    strong.textContent = name;
    strong.className = "name";
    rest.textContent = `  ${operator}${fate ? ", " + fate : ""}${took == null ? "" : `, ${(took / 1000).toPrecision(3)} ms in the source`}`;
    head.append(strong, rest);
    body.textContent = note || (fate ? "" : "not a norm");
    told.append(head, body);
    if (!centre) return;
    scale = Math.max(scale, .9);
    left = canvas.clientWidth / 2 - (x + WIDE / 2) * scale;
    top = canvas.clientHeight / 2 - (y + HIGH / 2) * scale;
    draw();
  };
  const search = $("find"), count = $("found");
  let hits = [], at = -1;
  const step = (by) => {
    if (!hits.length) return;
    at = (at + by + hits.length) % hits.length;
    count.textContent = `${at + 1} of ${hits.length}`;
    select(hits[at], true);
  };
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = [];
    shapes.forEach((shape, index) => {
      const text = `${nodes[index][0]} ${nodes[index][1]} ${nodes[index][4]} ${nodes[index][5]}`.toLowerCase();
      const hit = wanted.length > 0 && wanted.every((word) => text.includes(word));
      shape.classList.toggle("found", hit);
      if (hit) hits.push(index);
    });
    at = -1;
    count.textContent = wanted.length ? `${hits.length} found` : `${nodes.length} nodes`;
    if (hits.length) step(1);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    step(event.shiftKey ? -1 : 1);
  });
  boxes.addEventListener("click", (event) => {
    const group = event.target.closest("g.node");
    if (group && !moved) select(Number(group.dataset.index), false);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  const held = new Map();
  let moved = false, apart = 0;
  canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, event);
    moved = false;
    apart = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    if (held.size === 1) {
      const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
      if (!moved && Math.hypot(dx, dy) < 3) return;
      if (!moved) canvas.setPointerCapture(event.pointerId);
      moved = true;
      left += dx;
      top += dy;
      draw();
    }
    held.set(event.pointerId, event);
    if (held.size === 2) {
      const [a, b] = [...held.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      const box = canvas.getBoundingClientRect();
      if (apart) zoom(now / apart, (a.clientX + b.clientX) / 2 - box.left, (a.clientY + b.clientY) / 2 - box.top);
      apart = now;
      moved = true;
    }
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
    held.delete(event.pointerId);
    apart = 0;
  });
  const KEYS = {
    ArrowLeft: () => { left += 60; draw(); }, ArrowRight: () => { left -= 60; draw(); },
    ArrowUp: () => { top += 60; draw(); }, ArrowDown: () => { top -= 60; draw(); },
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(.8), 0: fit,
    n: () => select((selected + 1) % nodes.length, true), p: () => select((selected - 1 + nodes.length) % nodes.length, true),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  $("in").addEventListener("click", () => zoom(1.25));
  $("out").addEventListener("click", () => zoom(.8));
  $("fit").addEventListener("click", fit);
  addEventListener("resize", () => touched || fit());
  addEventListener("beforeprint", fit);
  count.textContent = `${nodes.length} nodes`;
  fit();
})();
