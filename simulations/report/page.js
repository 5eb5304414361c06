"use strict";
// Draws the charts in the reader's colour scheme, and lets the keyboard do what the mouse can.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 44rem)");
  const touch = matchMedia("(pointer: coarse)");
  const config = {
    displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function dressed({ data, layout }, hidden) {
    const scheme = dark.matches ? "dark" : "light";
    const axis = {
      gridcolor: colour("grid"), zerolinecolor: colour("rule"), linecolor: colour("rule"), automargin: true,
    };
    const traces = data.map((trace) => ({
      ...trace,
      visible: !hidden.has(trace.legendgroup),
      line: { ...trace.line, color: trace.meta[scheme] },
      marker: { ...trace.marker, color: trace.meta[scheme] },
      ...(trace.fill ? { fillcolor: trace.meta[scheme] } : {}),
    }));
    const labels = (layout.annotations || []).map((label, i) => ({
      ...label,
      visible: !narrow.matches && !hidden.has(label.text),
      arrowcolor: layout.meta.labels[i][scheme],
      font: { ...label.font, color: layout.meta.labels[i][scheme] },
    }));
    const small = { l: 52, r: layout.meta.narrow };
    return [traces, {
      ...layout,
      annotations: labels,
      uirevision: "the reader's",
      dragmode: touch.matches ? false : "zoom", // a finger scrolls the page
      font: { family: "system-ui, sans-serif", size: narrow.matches ? 12 : 13, color: colour("ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("ink") },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("rule"), font: { color: colour("ink") } },
      margin: { ...layout.margin, ...(narrow.matches ? small : {}) },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    }];
  }

  function chart(figure) {
    const place = figure.querySelector(".plotly-graph-div");
    const content = JSON.parse(figure.querySelector("script").textContent);
    const hidden = new Set();
    const draw = () => Plotly.react(place, ...dressed(content, hidden), config).then(() => {
      for (const button of place.querySelectorAll(".modebar-btn")) button.tabIndex = -1; // within an image
    });
    for (const button of figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const name = button.textContent;
        const on = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!on));
        if (on) hidden.add(name); else hidden.delete(name);
        draw();
      });
    }
    draw();
    keys(place);
    return draw;
  }

  function keys(place) {
    let [curve, point] = [0, -1];
    const curves = () => place.calcdata.map((_, i) => i)
      .filter((i) => place.calcdata[i][0].trace.visible === true && place.calcdata[i][0].trace.fill !== "toself");
    place.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") Plotly.Fx.unhover(place);
      if (!step || !curves().length) return;
      event.preventDefault();
      const all = curves();
      curve = (curve + step[0] + all.length) % all.length;
      const number = all[curve];
      point = Math.min(Math.max(point + step[1], 0), place.calcdata[number].length - 1);
      const { trace } = place.calcdata[number][0];
      Plotly.Fx.hover(place, [{ curveNumber: number, pointNumber: point }]);
      const at = `${place._fullLayout.xaxis.title.text} ${trace.x[point]}`;
      document.getElementById("point").textContent = `${trace.name}: ${trace.y[point]}, ${at}`;
    });
    place.addEventListener("blur", () => Plotly.Fx.unhover(place));
  }

  const charts = [...document.querySelectorAll("figure.chart")].map(chart);
  for (const change of [dark, narrow, touch]) {
    change.addEventListener("change", () => charts.forEach((draw) => draw()));
  }
})();
