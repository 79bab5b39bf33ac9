// Draws the timelines of a report: a row a node, time across, waits coloured by cause. Zoom by dragging over a stretch,
// by the buttons or the keys; the address keeps what is shown (#t1=2.5,4 is from 2.5 s to 4 s). Format: lanes.py.
"use strict";

const GUTTER = 128, AXIS = 22;

function decode(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const rows = [];
  let at = 0;
  for (let number = 0; number < packed.rows.length; number++) {
    const starts = [], ends = [], states = [];
    let time = 0;
    for (;;) {
      let value = 0, unit = 1, byte;
      do {
        byte = bytes[at++];
        value += (byte & 127) * unit;
        unit *= 128;
      } while (byte & 128);
      if (value === 0) break;
      const state = value % packed.states.length, length = (value - state) / packed.states.length;
      if (state > 0) {
        starts.push(time);
        ends.push(time + length);
        states.push(state);
      }
      time += length;
    }
    rows.push({ starts, ends, states });
  }
  return rows;
}

function seconds(value) {
  if (Math.abs(value) >= 7200) return Number((value / 3600).toPrecision(4)) + " h";
  if (Math.abs(value) >= 120) return Number((value / 60).toPrecision(4)) + " min";
  if (value !== 0 && Math.abs(value) < 0.01) return Number((value * 1000).toPrecision(3)) + " ms";
  return Number(value.toPrecision(4)) + " s";
}

function step(span, room) {
  const rough = span / room, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
}

class Timeline {
  constructor(figure) {
    this.figure = figure;
    this.packed = JSON.parse(figure.querySelector("script").textContent);
    this.rows = decode(this.packed);
    this.canvas = figure.querySelector("canvas");
    this.output = figure.querySelector("output");
    this.all = [0, this.packed.ticks];
    this.shown = this.asked() || this.all;
    this.high = this.rows.length <= 40 ? 16 : this.rows.length <= 160 ? 8 : 3;
    this.listen();
    this.draw();
  }

  asked() {
    for (const part of location.hash.slice(1).split("&")) {
      const [name, range] = part.split("=");
      if (name !== this.figure.id || !range) continue;
      const [from, to] = range.split(",").map((text) => (Number(text) / this.packed.seconds) * this.packed.ticks);
      if (to > from) return this.within(from, to);
    }
    return null;
  }

  within(from, to) {
    const length = Math.min(Math.max(to - from, 4), this.packed.ticks);
    const begin = Math.min(Math.max(from, 0), this.packed.ticks - length);
    return [begin, begin + length];
  }

  show(from, to) {
    this.shown = this.within(from, to);
    const named = this.shown.map((tick) => Number(this.at(tick).toPrecision(9))).join(",");
    const others = location.hash.slice(1).split("&").filter((part) => part && !part.startsWith(this.figure.id + "="));
    history.replaceState(null, "", "#" + [...others, `${this.figure.id}=${named}`].join("&"));
    this.draw();
  }

  at(tick) {
    return (tick / this.packed.ticks) * this.packed.seconds;
  }

  listen() {
    const { figure, canvas } = this;
    figure.addEventListener("click", (event) => this.act(event.target.dataset && event.target.dataset.do));
    figure.addEventListener("keydown", (event) => {
      const known = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", Home: "all" };
      if (event.target.tagName === "BUTTON" || !known[event.key]) return;
      event.preventDefault();
      this.act(known[event.key]);
    });
    canvas.addEventListener("pointerdown", (event) => {
      this.drag = [event.offsetX, event.offsetX];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.drag) {
        this.drag[1] = event.offsetX;
        this.draw();
      } else this.tell(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("pointerup", () => {
      const [from, to] = (this.drag || [0, 0]).map((x) => this.tick(x)).sort((a, b) => a - b);
      const wide = this.drag && Math.abs(this.drag[1] - this.drag[0]) > 4;
      this.drag = null;
      if (wide) this.show(from, to);
      else this.draw();
    });
    canvas.addEventListener("pointercancel", () => ((this.drag = null), this.draw()));
    canvas.addEventListener("pointerleave", () => this.say());
    canvas.addEventListener("dblclick", () => this.act("all"));
    for (const query of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(query).addEventListener("change", () => this.draw());
    addEventListener("hashchange", () => ((this.shown = this.asked() || this.all), this.draw()));
    addEventListener("beforeprint", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  act(what) {
    const [from, to] = this.shown, length = to - from, middle = (from + to) / 2;
    if (what === "in") this.show(middle - length / 4, middle + length / 4);
    if (what === "out") this.show(middle - length, middle + length);
    if (what === "left") this.show(from - length / 2, to - length / 2);
    if (what === "right") this.show(from + length / 2, to + length / 2);
    if (what === "all") this.show(...this.all);
  }

  tick(x) {
    const share = (x - GUTTER) / Math.max(this.width - GUTTER, 1);
    return this.shown[0] + Math.min(Math.max(share, 0), 1) * (this.shown[1] - this.shown[0]);
  }

  first(row, tick) {
    let low = 0, high = row.ends.length;
    while (low < high) {
      const half = (low + high) >> 1;
      if (row.ends[half] <= tick) low = half + 1;
      else high = half;
    }
    return low;
  }

  tell(x, y) {
    const number = Math.floor((y - AXIS) / this.high), row = this.rows[number];
    if (!row || x < GUTTER) return this.say();
    const tick = this.tick(x), index = this.first(row, tick);
    let what = "no record", times = "";
    if (index < row.starts.length && row.starts[index] <= tick) {
      const [from, to] = [this.at(row.starts[index]), this.at(row.ends[index])];
      what = this.packed.states[row.states[index]][0];
      times = `, ${seconds(to - from)} from ${seconds(from)}`;
    }
    this.say(`${this.packed.rows[number]} (${this.packed.groups[number]}): ${what}${times}`);
  }

  say(text) {
    this.output.textContent = text || `${seconds(this.at(this.shown[0]))} to ${seconds(this.at(this.shown[1]))}`;
  }

  draw() {
    const { canvas, rows, packed, high } = this;
    this.width = canvas.parentElement.clientWidth;
    const tall = AXIS + rows.length * high, dense = devicePixelRatio || 1;
    canvas.width = this.width * dense;
    canvas.height = tall * dense;
    canvas.style.height = tall + "px";
    const pen = canvas.getContext("2d"), style = getComputedStyle(this.figure);
    pen.scale(dense, dense);
    const colours = packed.states.map(([, name]) => (name === "none" ? "" : style.getPropertyValue("--" + name).trim()));
    pen.font = "11px system-ui, sans-serif";
    this.axis(pen, style, tall);
    rows.forEach((row, number) => this.row(pen, row, AXIS + number * high, colours, dense));
    this.labels(pen, style);
    if (this.drag) {
      const [from, to] = this.drag.map((x) => Math.max(x, GUTTER));
      pen.globalAlpha = 0.25;
      pen.fillStyle = style.getPropertyValue("--ink");
      pen.fillRect(Math.min(from, to), AXIS, Math.abs(to - from), tall);
    }
    this.figure.dataset.shown = this.shown.map((tick) => this.at(tick)).join(" ");
    this.say();
  }

  axis(pen, style, tall) {
    const [from, to] = this.shown.map((tick) => this.at(tick)), room = this.width - GUTTER;
    const size = step(to - from, Math.max(room / 110, 2));
    pen.textAlign = "center";
    for (let mark = Math.ceil(from / size) * size; mark <= to; mark += size) {
      const x = GUTTER + ((mark - from) / (to - from)) * room;
      pen.fillStyle = style.getPropertyValue("--rule");
      pen.fillRect(x, AXIS - 6, 1, tall);
      pen.fillStyle = style.getPropertyValue("--muted");
      if (x < this.width - 16) pen.fillText(seconds(Number(mark.toPrecision(12))), x, AXIS - 9);
    }
  }

  // Each pixel shows the state that took most of it.
  row(pen, row, top, colours, dense) {
    const room = Math.max(Math.round((this.width - GUTTER) * dense), 1), [from, to] = this.shown;
    const scale = room / (to - from), taken = new Float64Array(colours.length);
    let pixel = 0, begun = 0, last = 0, index = this.first(row, from);
    const paint = (until, state) => {
      if (state === last) return;
      if (last && until > begun) {
        pen.fillStyle = colours[last];
        pen.fillRect(GUTTER + begun / dense, top, (until - begun) / dense, this.high - (this.high > 4 ? 2 : 0.5));
      }
      begun = until;
      last = state;
    };
    while (pixel < room) {
      const start = index < row.starts.length ? (row.starts[index] - from) * scale : room;
      if (start >= pixel + 1) {
        paint(pixel, 0);
        pixel = Math.min(Math.floor(start), room);
        continue;
      }
      const end = (row.ends[index] - from) * scale;
      if (start <= pixel && end >= pixel + 1) {
        paint(pixel, row.states[index]);
        pixel = Math.min(Math.floor(end), room);
        if (end <= pixel) index++;
        continue;
      }
      taken.fill(0);
      taken[0] = 1;
      let most = 0;
      while (index < row.starts.length && (row.starts[index] - from) * scale < pixel + 1) {
        const stop = (row.ends[index] - from) * scale, state = row.states[index];
        const share = Math.min(stop, pixel + 1) - Math.max((row.starts[index] - from) * scale, pixel);
        taken[state] += share;
        taken[0] -= share;
        if (stop > pixel + 1) break;
        index++;
      }
      taken.forEach((share, state) => (most = share > taken[most] ? state : most));
      paint(pixel, most);
      pixel++;
    }
    paint(room, -1);
  }

  labels(pen, style) {
    const { packed, high } = this, each = high >= 10, names = each ? packed.rows : packed.groups;
    pen.textAlign = "left";
    pen.fillStyle = style.getPropertyValue("--muted");
    let free = 0;
    names.forEach((name, number) => {
      const top = AXIS + number * high;
      if ((!each && number && names[number - 1] === name) || top < free) return;
      let text = name;
      while (text.length > 4 && pen.measureText(text).width > GUTTER - 8) text = text.slice(0, -2).trimEnd() + "…";
      pen.fillText(text, 0, top + Math.max(high - 4, 9));
      free = top + 12;
    });
  }
}

for (const figure of document.querySelectorAll("figure.lanes")) new Timeline(figure);
document.documentElement.dataset.drawn = "yes";
