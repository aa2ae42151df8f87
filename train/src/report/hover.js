
// Values under the pointer, read back from the curves; without scripts the charts are the same.
const numbers = (text) => text.split(" ").map(Number);
const short = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
const scientific = (value) => (value && Math.abs(value) < 1e-3 ? value.toExponential(1) : short(value));

function curves(svg) {
  return [...svg.querySelectorAll(".curve")].map((path) => ({
    name: path.dataset.name,
    stack: path.classList.contains("stack"),
    points: [...path.getAttribute("d").matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map((match) => [+match[1], +match[2]]),
  }));
}

for (const svg of document.querySelectorAll("svg.chart")) {
  const [left, top, width, height] = numbers(svg.dataset.plot);
  const [first, last] = numbers(svg.dataset.x);
  const log = "log" in svg.dataset;
  const [low, high] = numbers(svg.dataset.y).map((value) => (log ? Math.log(value) : value));
  const value = (y) => low + (1 - (y - top) / height) * (high - low);
  const guide = document.createElementNS(svg.namespaceURI, "path");
  guide.setAttribute("class", "guide");
  const tip = document.createElement("output");
  tip.className = "tip";
  let lines;
  svg.addEventListener("pointermove", (event) => {
    lines ??= curves(svg);
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (at < left - 5 || at > left + width + 5) return;
    const distance = (point) => Math.abs(point[0] - at);
    const nearest = lines.map((line) => line.points.reduce((best, point) => (distance(point) < distance(best) ? point : best), line.points[0]));
    const x = nearest.reduce((best, point) => (point && (!best || distance(point) < distance(best)) ? point : best), undefined)?.[0];
    if (x === undefined) return;
    const rows = lines.flatMap((line, index) => {
      const point = nearest[index];
      if (!point || Math.abs(point[0] - x) > width / 50) return [];
      const below = line.stack && lines[index + 1]?.stack ? value(nearest[index + 1][1]) : 0;
      return [`${line.name}  ${scientific((log ? Math.exp(value(point[1])) : value(point[1])) - below)}`];
    });
    tip.textContent = [`${svg.dataset.over} ${Math.round(first + ((x - left) / width) * (last - first))}`, ...rows].join("\n");
    guide.setAttribute("d", `M${x} ${top}v${height}`);
    svg.append(guide);
    svg.after(tip);
    const figure = svg.parentElement.getBoundingClientRect();
    const side = event.clientX - figure.left;
    tip.style.top = `${event.clientY - figure.top + 14}px`;
    tip.style.left = `${Math.min(side + 14, figure.width - tip.offsetWidth - 4)}px`;
  });
  svg.addEventListener("pointerleave", () => (guide.remove(), tip.remove()));
}
