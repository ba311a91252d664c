/* The synthetic model with sliders: w2 over the radius, with and without label
   smoothing, as in keras_wake.theory.SyntheticModel.optimal_weights (λ = 1).
   Fills each <div class="synthetic">. */
(() => {
  "use strict";

  const SLIDERS = [
    // Key, label, least, greatest, step, first value.
    ["epsilon", "radius ε", 0, 0.49, 0.005, 0.1],
    ["beta", "smoothing β", 0, 0.4, 0.01, 0.1],
    ["sigma", "deviation σ", 0.1, 1.7, 0.05, 1],
  ];
  const MU = 1;
  const WIDTH = 480, HEIGHT = 240, LEFT = 40, BOTTOM = 30, TOP = 15, RIGHT = 10;

  const excess = (sigma) => sigma / Math.sqrt(Math.PI);

  /** The best weight of the common features. */
  const w2 = (epsilon, beta, sigma) =>
    Math.max(0, MU - (1 - beta) * (2 * epsilon + excess(sigma)));

  /** The radius from which on it is 0. */
  const critical = (beta, sigma) => (MU / (1 - beta) - excess(sigma)) / 2;

  function element(parent, name, attributes = {}, text = "") {
    const space = name === "svg" || parent.namespaceURI.endsWith("svg")
      ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) {
      made.setAttribute(key, value);
    }
    made.textContent = text;
    parent.appendChild(made);
    return made;
  }

  function draw(svg, { epsilon, beta, sigma }) {
    svg.replaceChildren();
    const end = MU / 2;
    const x = (e) => LEFT + (WIDTH - LEFT - RIGHT) * (e / end);
    const y = (w) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (w / MU);
    const line = (x1, y1, x2, y2, kind) =>
      element(svg, "line", { x1, y1, x2, y2, class: kind });
    line(x(0), y(0), x(end), y(0), "axis");
    line(x(0), y(0), x(0), y(MU), "axis");
    for (let tick = 0; tick <= 5; tick++) {
      const e = (end * tick) / 5, w = (MU * tick) / 5;
      element(svg, "text", { x: x(e), y: y(0) + 15, "text-anchor": "middle" },
        e.toFixed(1));
      element(svg, "text", { x: x(0) - 6, y: y(w) + 4, "text-anchor": "end" },
        w.toFixed(1));
    }
    element(svg, "text", { x: x(end), y: HEIGHT - 3, "text-anchor": "end" },
      "radius ε");
    element(svg, "text", { x: x(0) + 6, y: TOP }, "w2");
    for (const [kind, smoothing, name] of [
      ["hard", 0, "ε0"], ["smooth", beta, "ε1"],
    ]) {
      const points = [];
      for (let i = 0; i <= 200; i++) {
        const e = (end * i) / 200;
        points.push(`${x(e)},${y(w2(e, smoothing, sigma))}`);
      }
      element(svg, "polyline", { points: points.join(" "), class: kind });
      const at = critical(smoothing, sigma);
      if (at > 0 && at < end) {
        line(x(at), y(0), x(at), y(MU), "mark");
        // One to the left of its line, the other to the right.
        const [side, anchor] = kind === "hard" ? [-3, "end"] : [3, "start"];
        element(svg, "text", { x: x(at) + side, y: TOP + 12, "text-anchor": anchor },
          `${name} = ${at.toFixed(3)}`);
      }
      element(svg, "circle", { cx: x(epsilon), cy: y(w2(epsilon, smoothing, sigma)),
        r: 4, class: `${kind} dot` });
    }
  }

  function fill(host) {
    const values = {};
    const show = () => {
      draw(svg, values);
      const { epsilon, beta, sigma } = values;
      output.textContent =
        `w2 without smoothing (red) ${w2(epsilon, 0, sigma).toFixed(3)}, ` +
        `with smoothing (blue) ${w2(epsilon, beta, sigma).toFixed(3)}`;
    };
    for (const [key, name, min, max, step, value] of SLIDERS) {
      const label = element(host, "label");
      const text = element(label, "span");
      const input = element(label, "input",
        { type: "range", name: key, min, max, step, value });
      const read = () => {
        values[key] = Number(input.value);
        text.textContent = `${name} = ${values[key].toFixed(key === "epsilon" ? 3 : 2)}`;
      };
      input.addEventListener("input", () => { read(); show(); });
      read();
    }
    const svg = element(host, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
      "aria-label": "The best weight of the common features over the radius" });
    const output = element(host, "output");
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".synthetic").forEach(fill);
  });
})();
