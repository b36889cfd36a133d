// The widgets of the course. <div class="widget" data-widget="NAME"> becomes one, NAME among those below; no library, no network.
// The arithmetic comes first and is the same as that of bitnet/quantizers/dorefa.py; tests/learn/test_site.py holds them equal.
"use strict";

// --- arithmetic ---------------------------------------------------------------------------------------------------------

const top_code = (bits) => 2 ** bits - 1;
const clip = (x, low, high) => Math.min(Math.max(x, low), high);

// the nearest integer, halves to the even one, as np.rint
function rint(x) {
  const down = Math.floor(x), part = x - down;
  return part < 0.5 || (part === 0.5 && down % 2 === 0) ? down : down + 1;
}

function activation(x, bits) {
  const n = top_code(bits), code = rint(n * clip(x, 0, 1));
  return { code, level: code, real: code / n };
}

// one weight of a layer: mean is the layer's mean |w|, largest its largest |w|
function weight(w, bits, mean, largest) {
  if (bits === 1) return { code: w >= 0 ? 1 : 0, level: w >= 0 ? 1 : -1, real: w >= 0 ? mean : -mean };
  const n = top_code(bits), code = rint(n * (Math.tanh(w) / Math.tanh(largest) * 0.5 + 0.5));
  return { code, level: 2 * code - n, real: (2 * code - n) / n };
}

// does the gradient pass the activation's clip?
const passes = (x) => x >= 0 && x <= 1;

// one gradient: largest is the sample's largest |g|, sigma in (-1/2, 1/2) the noise, 0 for none
function gradient(g, bits, largest, sigma) {
  const n = top_code(bits), code = rint(n * clip(g / (2 * largest) + 0.5 + sigma / n, 0, 1));
  return { code, level: 2 * code - n, real: 2 * largest * (code / n - 0.5) };
}

const popcount = (word) => { let count = 0; for (; word; word >>>= 1) count += word & 1; return count; };

// bit l of every code as one word; the first code is the highest bit, as one writes it
const plane = (codes, l) => codes.reduce((word, code) => (word << 1) | ((code >> l) & 1), 0);

// sum of u * (2c - n_w) by XOR and popcount, and plainly
function dot(u, c, a_bits, w_bits) {
  const pairs = [], n_u = top_code(a_bits), n_w = top_code(w_bits);
  for (let l = 0; l < a_bits; l++)
    for (let m = 0; m < w_bits; m++) {
      const word = plane(u, l) ^ plane(c, m);
      pairs.push({ l, m, word, count: popcount(word), worth: 2 ** (l + m) });
    }
  const T = pairs.reduce((sum, pair) => sum + pair.worth * pair.count, 0), sum_c = c.reduce((a, b) => a + b, 0);
  const plain = u.reduce((sum, code, i) => sum + code * (2 * c[i] - n_w), 0);
  return { pairs, T, sum_c, n_u, by_bits: n_u * sum_c - T, plain };
}

// what zero words add at a pixel of a size x size image under a filter with these sums of levels, a row and a column of taps each
function border(bits, sums, row, column, size) {
  const n = top_code(bits), inside = (i) => i >= 0 && i < size;
  const outside = sums.map((line, ky) => line.map((_, kx) => !inside(row + ky - 1) || !inside(column + kx - 1)));
  let sum = 0, taps = 0;
  sums.forEach((line, ky) => line.forEach((value, kx) => { if (outside[ky][kx]) { sum += value; taps += 1; } }));
  const side = (i) => (i === 0 ? 0 : i === size - 1 ? 2 : 1);
  return { n, outside, sum, taps, constant: n * sum, kind: 3 * side(row) + side(column) + 1 };
}

// the triples (output, input, tap) that a result sums, in one dimension: 6 inputs, 3 taps, padding 1
function triples(stride, product, index) {
  const outputs = Math.floor((6 + 2 - 3) / stride) + 1, all = [];
  for (let o = 0; o < outputs; o++)
    for (let t = 0; t < 3; t++) {
      const i = stride * o + t - 1;
      if (i >= 0 && i < 6) all.push([o, i, t]);
    }
  const axis = { forward: 0, input: 1, weight: 2 }[product], count = [outputs, 6, 3][axis];
  return { outputs, count, terms: all.filter((triple) => triple[axis] === Math.min(index, count - 1)) };
}

// the largest noise (RMS) of a code, half a step, over the largest gradient of a sample that is smaller than another by ratio
function scales(bits, ratio) {
  const half_step = 1 / top_code(bits);
  return { own: half_step, shared: half_step * ratio };
}

// the gain of a whole: the share q gets s times as fast, the rest r times
const amdahl = (q, s, r) => 1 / ((1 - q) / r + q / s);

// sign and thresholds of an integer sum's code: how many of them sign * sum has reached; bound + 1 where none does
function thresholds(slope, shift, bits, bound) {
  const sign = slope < 0 ? -1 : 1, steps = [];
  for (let code = 1; code <= top_code(bits); code++) {
    let s = -bound;
    while (s <= bound && activation(slope * sign * s + shift, bits).code < code) s += 1;
    steps.push(s);
  }
  return { sign, steps };
}

// random numbers in [0, 1) that repeat for a seed (mulberry32)
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// --- parts of pages -----------------------------------------------------------------------------------------------------

let ids = 0;

function element(parent, tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

function shape(parent, tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

// a row with a name, a slider and its value; show turns the value into text
function slider(parent, name, [min, max, step], value, show, changed) {
  const id = `widget-${++ids}`, row = element(parent, "div", { class: "control" });
  element(row, "label", { for: id }, name);
  const input = element(row, "input", { type: "range", id, min, max, step, value });
  const output = element(row, "output", { for: id });
  const update = () => { output.textContent = show(Number(input.value)); };
  input.addEventListener("input", () => { update(); changed(); });
  update();
  return { get value() { return Number(input.value); }, set value(v) { input.value = v; update(); } };
}

function choice(parent, name, options, changed) {
  const id = `widget-${++ids}`, row = element(parent, "div", { class: "control" });
  element(row, "label", { for: id }, name);
  const input = element(row, "select", { id });
  for (const [value, text] of Object.entries(options)) element(input, "option", { value }, text);
  input.addEventListener("change", changed);
  return input;
}

function button(parent, text, clicked) {
  const made = element(parent, "button", { type: "button" }, text);
  made.addEventListener("click", clicked);
  return made;
}

const number = (x, digits = 3) => (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "−");
const signed = (x, digits = 3) => (x > 0 ? "+" : "") + number(x, digits);
const binary = (code, bits) => code.toString(2).padStart(bits, "0");

// a coordinate system; moved(x) is called when somebody points at it
class Plot {
  constructor(parent, name, height = 260) {
    Object.assign(this, { width: 480, height, left: 44, right: 12, top: 12, bottom: 30 });
    this.svg = shape(parent, "svg", { viewBox: `0 0 ${this.width} ${height}`, role: "img", "aria-label": name });
  }

  range(x0, x1, y0, y1) {
    Object.assign(this, { x0, x1, y0, y1 });
    this.svg.textContent = "";
    return this;
  }

  get inner_width() { return this.width - this.left - this.right; }
  get inner_height() { return this.height - this.top - this.bottom; }
  x(value) { return this.left + (value - this.x0) / (this.x1 - this.x0) * this.inner_width; }
  y(value) { return this.height - this.bottom - (value - this.y0) / (this.y1 - this.y0) * this.inner_height; }

  axes(xs, ys) {
    for (const value of xs) {
      this.line([[value, this.y0], [value, this.y1]], "grid");
      this.text(value, this.y0, String(value).replace("-", "−"), "middle", 0, 20);
    }
    for (const value of ys) {
      this.line([[this.x0, value], [this.x1, value]], "grid");
      this.text(this.x0, value, String(value).replace("-", "−"), "end", -8, 5);
    }
  }

  line(points, kind) {
    return shape(this.svg, "polyline", { class: kind, points: points.map(([x, y]) => `${this.x(x)},${this.y(y)}`).join(" ") });
  }

  dot(x, y, kind, r = 6) { return shape(this.svg, "circle", { class: kind, cx: this.x(x), cy: this.y(y), r }); }

  box(x0, x1, y0, y1, kind) {
    const x = this.x(x0), y = this.y(y1);
    return shape(this.svg, "rect", { class: kind, x, y, width: this.x(x1) - x, height: this.y(y0) - y });
  }

  text(x, y, words, anchor = "start", dx = 0, dy = 0) {
    return shape(this.svg, "text", { x: this.x(x) + dx, y: this.y(y) + dy, "text-anchor": anchor }, words);
  }

  pointed(moved) {
    const at = (event) => {
      const box = this.svg.getBoundingClientRect(), across = (event.clientX - box.left) / box.width * this.width;
      moved(clip(this.x0 + (across - this.left) / this.inner_width * (this.x1 - this.x0), this.x0, this.x1));
    };
    this.svg.addEventListener("pointerdown", at);
    this.svg.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
  }
}

// the corners of a staircase: f(x).real over [x0, x1], found on a fine grid
function steps(f, x0, x1, count = 2400) {
  const points = [];
  for (let i = 0, last; i <= count; i++) {
    const x = x0 + (x1 - x0) * i / count, y = f(x).real;
    if (i && y !== last) points.push([x, last]);
    if (!i || y !== last || i === count) points.push([x, y]);
    last = y;
  }
  return points;
}

// boxes with the bits of a code, the highest first
function bit_boxes(parent, code, bits) {
  parent.textContent = "";
  for (let l = bits - 1; l >= 0; l--) {
    const bit = (code >> l) & 1, box = element(parent, "span", { class: bit ? "bit one" : "bit" });
    element(box, "b", {}, String(bit));
    element(box, "small", {}, `×${2 ** l}`);
  }
}

// --- the widgets --------------------------------------------------------------------------------------------------------

const widgets = {
  staircase(place) {
    element(place, "p", { class: "name" }, "A number and its code");
    const what = choice(place, "Quantizer", { activation: "activation", weight: "weight" }, () => draw(true));
    const bits = slider(place, "Bits", [1, 8, 1], 2, String, () => draw());
    const x = slider(place, "Number", [-1, 1, 0.01], 0.4, (v) => number(v, 2), () => draw());
    const plot = new Plot(place, "Staircase of the quantizer, with the number and its rounded value");
    plot.pointed((v) => { x.value = v; draw(); });
    const boxes = element(place, "div", { class: "bits", "aria-hidden": "true" });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    const note = element(place, "p", { class: "note" });

    function draw() {
      const k = bits.value, is_weight = what.value === "weight";
      const f = is_weight ? (v) => weight(v, k, 0.4, 1) : (v) => activation(v, k);
      const { code, level, real } = f(x.value);
      plot.range(-1, 1, is_weight ? -1.05 : -0.05, 1.05).axes([-1, -0.5, 0, 0.5, 1], is_weight ? [-1, 0, 1] : [0, 0.5, 1]);
      plot.line(is_weight ? [[-1, -1], [1, 1]] : [[-1, 0], [0, 0], [1, 1]], "float");
      plot.line(steps(f, -1, 1), "quantizer");
      plot.line([[x.value, plot.y0], [x.value, real]], "guide");
      plot.dot(x.value, real, "bits-dot");
      bit_boxes(boxes, code, k);
      const target = is_weight ? x.value : clip(x.value, 0, 1);
      const level_text = is_weight ? `level 2 · ${code} − ${top_code(k)} = ${number(level, 0)}` : `level ${level}`;
      says.textContent = `${number(x.value, 2)} gets the code ${code}, in bits ${binary(code, k)}; ${level_text}, ` +
        `rounded ${number(real)}, error ${signed(real - target)}.`;
      note.textContent = is_weight ?
        "The layer's mean |w| is 0.4 and its largest |w| is 1. With one bit the scale is the mean." :
        "Numbers below 0 are clipped to 0 first; the error is that of rounding alone.";
    }
    draw();
  },

  window(place) {
    element(place, "p", { class: "name" }, "Does the gradient pass?");
    const bits = slider(place, "Bits", [1, 8, 1], 2, String, () => draw());
    const x = slider(place, "Number", [-1, 2, 0.01], 0.4, (v) => number(v, 2), () => draw());
    const g = slider(place, "Gradient", [-1, 1, 0.05], 0.5, (v) => number(v, 2), () => draw());
    const plot = new Plot(place, "Staircase of the activation, with the window in which the gradient passes");
    plot.pointed((v) => { x.value = v; draw(); });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });

    function draw() {
      const k = bits.value, f = (v) => activation(v, k), open = passes(x.value), out = open ? g.value : 0;
      plot.range(-1, 2, -0.1, 1.1).axes([-1, 0, 1, 2], [0, 0.5, 1]);
      plot.box(0, 1, -0.1, 1.1, "open");
      plot.text(0.5, 1.1, "window", "middle", 0, 16);
      plot.line([[-1, 0], [0, 0], [1, 1], [2, 1]], "float");
      plot.line(steps(f, -1, 2), "quantizer");
      plot.line([[x.value, plot.y0], [x.value, f(x.value).real]], "guide");
      plot.dot(x.value, f(x.value).real, open ? "bits-dot" : "wrong-dot");
      const why = x.value < 0 ? "below 0 it is stopped" : open ? "inside the window it passes" : "above 1 it is stopped";
      says.textContent = `${number(x.value, 2)} is rounded to ${number(f(x.value).real)}. A gradient of ${number(g.value, 2)} ` +
        `arrives and ${number(out, 2)} goes on: ${why}.`;
    }
    draw();
  },

  dot(place) {
    element(place, "p", { class: "name" }, "A dot product in bits");
    let random = generator(7), u = [], c = [];
    const a = slider(place, "Bits of u", [1, 4, 1], 2, String, () => restart());
    const w = slider(place, "Bits of c", [1, 4, 1], 1, String, () => restart());
    const vectors = element(place, "div", { class: "scroll" }), row = element(place, "div", { class: "buttons" });
    button(row, "Shuffle", restart);
    const table = element(place, "div", { class: "scroll" });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" },
      "u are unsigned codes, level u; c are bipolar codes, level 2c − n. Click a code to change it.");

    function fill() {
      u = Array.from({ length: 8 }, () => Math.floor(random() * 2 ** a.value));
      c = Array.from({ length: 8 }, () => Math.floor(random() * 2 ** w.value));
    }
    function restart() {
      fill();
      draw();
    }
    function codes_row(grid, name, codes, bits) {
      const line = element(grid, "tr", { class: "codes" });
      element(line, "th", { scope: "row" }, name);
      codes.forEach((code, i) => {
        const made = button(element(line, "td"), String(code), () => {
          codes[i] = (codes[i] + 1) % 2 ** bits;
          draw();
          vectors.querySelector(`[data-code="${name}${i}"]`).focus();
        });
        made.dataset.code = name + i;
        made.setAttribute("aria-label", `code ${i + 1} of ${name}: ${code}, change`);
      });
      for (let l = bits - 1; l >= 0; l--) {
        const bits_line = element(grid, "tr");
        element(bits_line, "th", { scope: "row" }, `plane ${l}`);
        codes.forEach((code) => element(bits_line, "td", { class: (code >> l) & 1 ? "one" : "" }, String((code >> l) & 1)));
      }
    }
    function draw() {
      const result = dot(u, c, a.value, w.value), n_w = top_code(w.value);
      vectors.textContent = table.textContent = "";
      const grid = element(vectors, "table", { class: "planes" });
      codes_row(grid, "u", u, a.value);
      codes_row(grid, "c", c, w.value);
      const pairs = element(table, "table"), head = element(pairs, "tr");
      for (const title of ["planes", "XOR", "ones", "times"]) element(head, "th", { scope: "col" }, title);
      for (const { l, m, word, count, worth } of result.pairs) {
        const line = element(pairs, "tr");
        element(line, "td", {}, `u${l}, c${m}`);
        element(line, "td", { class: "code" }, binary(word, 8));
        element(line, "td", {}, String(count));
        element(line, "td", {}, String(worth));
      }
      says.textContent = `T = ${result.pairs.map(({ count, worth }) => `${worth}·${count}`).join(" + ")} = ${result.T}. ` +
        `By bits: ${result.n_u} · ${result.sum_c} − ${result.T} = ${number(result.by_bits, 0)}. ` +
        `Plainly, the sum of u · (2c − ${n_w}): ${number(result.plain, 0)}.`;
      place.dataset.byBits = result.by_bits;
      place.dataset.plain = result.plain;
    }
    restart();
  },

  noise(place) {
    element(place, "p", { class: "name" }, "Rounding gradients");
    const gradients = [-1, -0.62, -0.27, 0.04, 0.21, 0.45, 0.8], largest = 1;
    let seed = 1;
    const bits = slider(place, "Bits", [1, 8, 1], 2, String, () => draw());
    const power = slider(place, "Mean of", [0, 10, 1], 0, (v) => String(2 ** v), () => draw());
    const noise = choice(place, "Noise", { on: "on", off: "off" }, () => draw());
    const row = element(place, "div", { class: "buttons" });
    button(row, "Draw again", () => { seed += 1; draw(); });
    const plot = new Plot(place, "Gradients, their rounded values and the mean of these");
    const table = element(place, "div", { class: "scroll" });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" },
      "Grey: true gradients. Blue: means of what they were rounded to. The codes are those of the last draw.");

    function draw() {
      const random = generator(seed), count = 2 ** power.value, k = bits.value, sums = gradients.map(() => 0);
      let drawn;
      for (let i = 0; i < count; i++) {
        // (random + 2^-33): never exactly -1/2
        drawn = gradients.map((g) => gradient(g, k, largest, noise.value === "on" ? random() + 2 ** -33 - 0.5 : 0));
        drawn.forEach(({ real }, i) => { sums[i] += real; });
      }
      const means = sums.map((sum) => sum / count);
      const error = Math.sqrt(means.reduce((sum, mean, i) => sum + (mean - gradients[i]) ** 2, 0) / means.length);
      plot.range(-0.6, gradients.length - 0.4, -1.1, 1.1).axes([], [-1, 0, 1]);
      const n = top_code(k);
      for (let code = 0; k <= 5 && code <= n; code++) {
        plot.line([[plot.x0, 2 * code / n - 1], [plot.x1, 2 * code / n - 1]], "level");
      }
      gradients.forEach((g, i) => {
        plot.line([[i - 0.3, g], [i + 0.3, g]], "true");
        plot.line([[i, g], [i, means[i]]], "guide");
        plot.dot(i, means[i], "bits-dot");
      });
      table.textContent = "";
      const grid = element(table, "table");
      const lines = {
        "true": gradients.map((g) => number(g, 2)),
        code: drawn.map(({ code }) => String(code)),
        mean: means.map((mean) => number(mean, 2)),
      };
      for (const [name, cells] of Object.entries(lines)) {
        const line = element(grid, "tr");
        element(line, "th", { scope: "row" }, name);
        cells.forEach((cell) => element(line, "td", {}, cell));
      }
      says.textContent = `${k} bit${k > 1 ? "s" : ""}, noise ${noise.value}, mean of ${count}: ` +
        `typical error of the mean ${number(error)} (RMS).`;
    }
    draw();
  },

  border(place) {
    element(place, "p", { class: "name" }, "The border table");
    const bits = slider(place, "Bits of v", [1, 4, 1], 1, String, () => draw());
    const row = slider(place, "Row", [0, 5, 1], 0, String, () => draw());
    const column = slider(place, "Column", [0, 5, 1], 0, String, () => draw());
    const grid = element(place, "div", { class: "scroll" });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" },
      "An image of 6 x 6 pixels, a filter of 3 x 3 taps. Numbers: the sum of the weight levels of a tap. Blue taps lie outside.");
    const sums = [[2, -4, 0], [6, -2, 4], [-6, 2, -8]];

    function draw() {
      const result = border(bits.value, sums, row.value, column.value, 6);
      grid.textContent = "";
      const table = element(grid, "table", { class: "planes" });
      sums.forEach((line, ky) => {
        const tr = element(table, "tr");
        line.forEach((sum, kx) => element(tr, "td", { class: result.outside[ky][kx] ? "one" : "" }, number(sum, 0)));
      });
      says.textContent = `${result.taps} of 9 taps lie outside. There the zero words count as level ${number(-result.n, 0)}, which adds ` +
        `${number(-result.n, 0)} · (${number(result.sum, 0)}) = ${number(-result.constant, 0)}. ` +
        `The table gives back ${number(result.constant, 0)}; class ${result.kind} of 9.`;
    }
    draw();
  },

  triples(place) {
    element(place, "p", { class: "name" }, "Three directions of summing");
    const what = choice(place, "Product", { forward: "forward", input: "input gradient", weight: "weight gradient" }, () => draw());
    const stride = slider(place, "Stride", [1, 2, 1], 1, String, () => draw());
    const which = slider(place, "Result", [0, 5, 1], 1, String, () => draw());
    const grid = element(place, "div", { class: "scroll" });
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" }, "Rows: outputs. Columns: inputs. Numbers: taps. Blue: the terms of the chosen result.");

    function draw() {
      const { outputs, count, terms } = triples(stride.value, what.value, which.value);
      grid.textContent = "";
      const table = element(grid, "table", { class: "planes" }), head = element(table, "tr");
      element(head, "th");
      for (let i = 0; i < 6; i++) element(head, "th", { scope: "col" }, String(i));
      for (let o = 0; o < outputs; o++) {
        const tr = element(table, "tr");
        element(tr, "th", { scope: "row" }, `y${o}`);
        for (let i = 0; i < 6; i++) {
          const t = i - stride.value * o + 1, there = t >= 0 && t < 3;
          element(tr, "td", { class: there && terms.some(([a, b]) => a === o && b === i) ? "one" : "" }, there ? String(t) : "·");
        }
      }
      const name = { forward: "y", input: "dx", weight: "dw" }[what.value], index = Math.min(which.value, count - 1);
      const factor = { forward: (o, i, t) => `x${i}·w${t}`, input: (o, i, t) => `g${o}·w${t}`, weight: (o, i) => `g${o}·x${i}` };
      says.textContent = `${name}${index} = ${terms.map(([o, i, t]) => factor[what.value](o, i, t)).join(" + ") || "0"}: ` +
        { forward: "along a row.", input: "along a column.", weight: "along the diagonal of a tap." }[what.value];
    }
    draw();
  },

  scales(place) {
    element(place, "p", { class: "name" }, "A scale for each sample, or one for the batch");
    const bits = slider(place, "Bits", [1, 8, 1], 4, String, () => draw());
    const ratio = slider(place, "Smaller by", [0, 6, 1], 4, (v) => String(2 ** v), () => draw());
    const plot = new Plot(place, "Noise over gradient of the smaller sample, for both kinds of scale", 200);
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" }, "The noise of a code, f(1 − f) · step² at most, in parts of the smaller sample's largest gradient.");

    function draw() {
      const { own, shared } = scales(bits.value, 2 ** ratio.value), most = Math.max(1.2, shared * 1.1);
      plot.range(0, 3, 0, most).axes([], most > 4 ? [0, 1, Math.floor(most)] : [0, 1]);
      plot.box(0.4, 1.2, 0, own, "open");
      plot.box(1.8, 2.6, 0, shared, "open");
      plot.line([[0, 1], [3, 1]], "level");
      plot.text(0.8, 0, "own scale", "middle", 0, 20);
      plot.text(2.2, 0, "one scale", "middle", 0, 20);
      says.textContent = `With its own scale the noise of the smaller sample is at most ${number(own)} of its largest gradient, ` +
        `with one scale for both ${number(shared)}` + (shared > 1 ? ": more than the gradient itself." : ".");
    }
    draw();
  },

  amdahl(place) {
    element(place, "p", { class: "name" }, "Amdahl's law");
    const share = slider(place, "Share q", [0, 100, 1], 60, (v) => `${v} %`, () => draw());
    const fast = slider(place, "Speed-up s", [0, 6, 0.5], 3, (v) => number(2 ** v, 1), () => draw());
    const rest = slider(place, "Rest r", [0.5, 4, 0.1], 1, (v) => number(v, 1), () => draw());
    const plot = new Plot(place, "Time of a step before and after", 150);
    const says = element(place, "p", { class: "says", "aria-live": "polite" });

    function draw() {
      const q = share.value / 100, s = 2 ** fast.value, r = rest.value, gain = amdahl(q, s, r);
      plot.range(0, 1.6, 0, 2).axes([0, 0.5, 1, 1.5], []);
      for (const [y, part, other] of [[1.1, q, 1 - q], [0.2, q / s, (1 - q) / r]]) {
        plot.box(0, part, y, y + 0.7, "part");
        plot.box(part, part + other, y, y + 0.7, "open");
      }
      says.textContent = `The part takes ${number(100 * q, 0)} % of the time and gets ${number(s, 1)} times as fast, the rest ` +
        `${number(r, 1)} times: the whole ${number(gain, 2)} times. However fast the part, not more than ` +
        (q < 1 ? `${number(amdahl(q, Infinity, r), 2)}.` : "it is itself.");
    }
    draw();
  },

  frozen(place) {
    element(place, "p", { class: "name" }, "Batch norm as thresholds");
    const gamma = slider(place, "Slope", [-4, 4, 0.25], 1.5, (v) => number(v, 2), () => draw());
    const beta = slider(place, "Shift", [-1, 2, 0.05], 0.5, (v) => number(v, 2), () => draw());
    const bits = slider(place, "Bits", [1, 3, 1], 2, String, () => draw());
    const plot = new Plot(place, "Code of an integer sum, and its thresholds");
    const says = element(place, "p", { class: "says", "aria-live": "polite" });
    element(place, "p", { class: "note" }, "Code of clip(slope · sum / 100 + shift, 0, 1), for sums from −100 to 100.");

    function draw() {
      const k = bits.value, n = top_code(k), { sign, steps } = thresholds(gamma.value / 100, beta.value, k, 100);
      plot.range(-100, 100, -0.3, n + 0.3).axes([-100, -50, 0, 50, 100], Array.from({ length: n + 1 }, (_, i) => i));
      const line = [];
      for (let s = -100; s <= 100; s++) {
        const code = activation(gamma.value / 100 * s + beta.value, k).code;
        line.push([s - 0.5, code], [s + 0.5, code]);
      }
      plot.line(line, "quantizer");
      for (const step of steps) {
        if (Math.abs(step) <= 100) plot.line([[sign * step, plot.y0], [sign * step, plot.y1]], "guide");
      }
      const shown = steps.map((step) => (step > 100 ? "never" : step <= -100 ? "always" : number(step, 0))).join(", ");
      says.textContent = `The code is how many of these ${sign > 0 ? "a sum" : "minus the sum"} has reached: ${shown}.`;
    }
    draw();
  },
};

for (const place of document.querySelectorAll(".widget[data-widget]")) {
  const make = widgets[place.dataset.widget];
  place.setAttribute("role", "group");
  if (make) make(place);
  else place.textContent = `There is no widget ${place.dataset.widget}.`;
}

window.course = { rint, activation, weight, passes, gradient, dot, generator, border, triples, scales, amdahl, thresholds };
