"use strict";
// A chart tells the values at the step that is nearest to the pointer, or by arrow keys.
for (const chart of document.querySelectorAll(".chart")) {
  const { along, limits, curves } = JSON.parse(chart.dataset.chart);
  const svg = chart.querySelector("svg");
  const cursor = chart.querySelector(".cursor");
  const value = chart.querySelector(".value");
  const [left, right] = [{{ LEFT }}, {{ WIDTH - RIGHT }}];
  const steps = [...new Set(curves.flatMap(c => c.points.map(p => p[0])))].sort((a, b) => a - b);
  let at = steps.length - 1;
  const show = () => {
    const step = steps[at];
    const x = left + (step - limits[0]) / (limits[1] - limits[0]) * (right - left);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    const told = curves.flatMap(({ label, points }) =>
      points.filter(p => p[0] === step).map(p => `${label} ${Number(p[1].toPrecision(6))}`));
    value.textContent = `${along} ${step}: ${told.join(", ")}`;
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * {{ WIDTH }};
    const step = limits[0] + (x - left) / (right - left) * (limits[1] - limits[0]);
    at = steps.reduce((best, s, i) => Math.abs(s - step) < Math.abs(steps[best] - step) ? i : best, 0);
    if (steps.length) show();
  });
  svg.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !steps.length) return;
    event.preventDefault();
    at = Math.min(Math.max(at + by, 0), steps.length - 1);
    show();
  });
}
// A slider moves all films that stand with it.
for (const films of document.querySelectorAll(".films")) {
  const values = JSON.parse(films.dataset.values);
  const input = films.querySelector("input");
  const output = films.querySelector("output");
  const move = () => {
    films.style.setProperty("--frame", input.value);
    output.textContent = values[input.value];
    input.setAttribute("aria-valuetext", values[input.value]);
  };
  input.addEventListener("input", move);
  move();
}
