"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const charts = [...document.querySelectorAll(".chart")];
  function drawn(figure) {
    const style = getComputedStyle(document.documentElement);
    const css = (name) => style.getPropertyValue(name).trim();
    const copy = structuredClone(figure);
    for (const trace of copy.data) {
      const color = css("--c" + trace.meta);
      trace.marker = { ...trace.marker, color };
      if (trace.type === "scatter") trace.line = { ...trace.line, color };
    }
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
    copy.layout = {
      ...copy.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--fg"), family: "system-ui, sans-serif", size: 12 },
      xaxis: { ...copy.layout.xaxis, ...axis },
      yaxis: { ...copy.layout.yaxis, ...axis },
      hoverlabel: { bgcolor: css("--bg"), font: { color: css("--fg") } },
    };
    return copy;
  }
  function draw() {
    for (const chart of charts) {
      const figure = drawn(figures[Number(chart.dataset.figure)]);
      Plotly.react(chart, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    }
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
