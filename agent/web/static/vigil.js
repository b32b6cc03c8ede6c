// Pages work without this file; with it, they follow the campaign and draw all runs.
"use strict";
(() => {
  const due = new Set();
  const isTyping = () => [...document.querySelectorAll("#live input:not([type=hidden])")].some((box) => box.value !== box.defaultValue || box === document.activeElement);
  const refresh = (part) => {
    // What a person types is never replaced, and what was folded stays folded.
    if (document.hidden || (part === "#live" && isTyping())) { due.add(part); return; }
    due.delete(part);
    const folded = document.querySelector("#now .samples:not([open])");
    htmx.ajax("GET", location.pathname + location.search, { target: part, select: part, swap: "outerHTML" })
      .then(() => { if (folded) document.querySelector("#now .samples")?.removeAttribute("open"); });
  };
  const live = document.querySelector("[data-events]");
  if (live && window.EventSource) {
    const timers = {};
    const later = (part, wait) => { timers[part] = timers[part] || setTimeout(() => { timers[part] = 0; refresh(part); }, wait); };
    let drawing = 0;
    const redraw = () => { drawing = drawing || setTimeout(() => { drawing = 0; draw(); }, 10000); };
    let events = null;
    // A browser keeps six lines to a server: a page that nobody sees holds none, or the seventh would wait.
    const follow = () => {
      events?.close();
      if (document.hidden) return;
      events = new EventSource(live.dataset.events);
      events.addEventListener("change", () => { later("#live", 1000); redraw(); });
      events.addEventListener("job", () => { later("#now", 2000); redraw(); });
    };
    follow();
    document.addEventListener("visibilitychange", () => { follow(); if (!document.hidden) { due.clear(); later("#live", 0); draw(); } });
    document.addEventListener("focusout", () => { if (due.has("#live")) later("#live", 1000); });
  }

  let plot = null;
  const draw = async () => {
    const place = document.querySelector("[data-curves]");
    if (!place || !window.uPlot || document.hidden) return;
    const answer = await fetch(place.dataset.curves);
    if (!answer.ok) return;
    const found = await answer.json();
    if (!found.runs.length) return;
    const style = getComputedStyle(document.body), dim = style.getPropertyValue("--dim"), rule = style.getPropertyValue("--rule");
    const light = matchMedia("(prefers-color-scheme: dark)").matches ? 65 : 42;
    const axis = { stroke: dim, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } };
    const colour = (index) => `hsl(${(210 + index * 137) % 360} 60% ${light}%)`;
    const banded = new URL(place.dataset.curves, location).searchParams.get("band");
    const lines = found.runs.map((run, index) => ({
      label: run.id, stroke: colour(index), width: found.runs.length > 24 && run.id !== banded ? 0.7 : 1.8, spanGaps: true,
      points: { show: found.metric === "val_loss" && found.runs.length < 25 },
    }));
    const data = [found.x, ...found.runs.map((run) => run.y)], bands = [], n = lines.length;
    if (found.band) {
      const shade = colour(found.runs.findIndex((run) => run.id === banded)).replace(")", " / 0.2)");
      const edge = { stroke: null, points: { show: false }, class: "edge" };
      lines.push(edge, edge);
      data.push(found.band.high, found.band.low);
      bands.push({ series: [n + 1, n + 2], fill: shade });
    }
    const width = Math.min(1100, place.clientWidth);
    if (plot) plot.destroy();
    place.replaceChildren();
    plot = new uPlot({ width, height: Math.max(240, width / 2.6), scales: { x: { time: false } }, axes: [axis, axis], bands,
      legend: { show: n <= 24 }, series: [{ label: found.by }, ...lines] }, data, place);
    document.querySelectorAll(".nojs").forEach((each) => each.remove());
  };
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
