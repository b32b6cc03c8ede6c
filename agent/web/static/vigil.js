// Pages work without this file; with it, they follow the campaign and draw all runs.
"use strict";
(() => {
  let due = false;
  const isTyping = () => [...document.querySelectorAll("#live input:not([type=hidden])")].some((box) => box.value || box === document.activeElement);
  const refresh = () => {
    // What a person types is never replaced.
    due = document.hidden || isTyping();
    if (!due) htmx.ajax("GET", location.pathname + location.search, { target: "#live", select: "#live", swap: "outerHTML" });
  };
  const live = document.querySelector("[data-events]");
  if (live && window.EventSource) {
    let timer = 0;
    const later = () => { timer = timer || setTimeout(() => { timer = 0; refresh(); draw(); }, 1000); };
    new EventSource(live.dataset.events).addEventListener("change", later);
    document.addEventListener("visibilitychange", () => { if (due && !document.hidden) later(); });
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
    const chosen = new URLSearchParams(location.search).getAll("run");
    const axis = { stroke: dim, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } };
    const lines = found.runs.map((run, index) => ({
      label: run.id, stroke: `hsl(${(index * 137) % 360} 60% 50%)`, width: 1.5, spanGaps: true,
      show: !chosen.length || chosen.includes(run.id), points: { show: found.metric === "val_loss" },
    }));
    const width = Math.min(768, place.clientWidth);
    if (plot) plot.destroy();
    place.replaceChildren();
    plot = new uPlot({ width, height: Math.max(220, width / 2.4), scales: { x: { time: false } }, axes: [axis, axis],
      legend: { show: found.runs.length <= 24 }, series: [{ label: found.by }, ...lines] }, [found.x, ...found.runs.map((run) => run.y)], place);
    document.querySelectorAll(".nojs").forEach((each) => each.remove());
  };
  draw();
})();
