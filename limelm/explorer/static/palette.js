// Colors: blue below zero, gray at zero, orange above, told apart by color-blind readers too; one hue for chances.

const STOPS = {
  light: {
    diverging: ["#08386f", "#3987c9", "#ebebeb", "#e8912d", "#8f3300"],
    sequential: ["#f3f4f6", "#bfdcd3", "#6bb5a2", "#24806f", "#0a4a40"],
  },
  dark: {
    diverging: ["#a5d8ff", "#3b8bd0", "#2c333d", "#cf7a20", "#ffd29b"],
    sequential: ["#20262e", "#24534b", "#2f8473", "#5fbba6", "#b6efdf"],
  },
};
// Where on a scale a number stands, and which part of the limit it is.
const TICKS = {
  diverging: [[0, -1], [0.25, -0.25], [0.5, 0], [0.75, 0.25], [1, 1]],
  sequential: [[0, 0], [0.5, 0.5], [1, 1]],
};
const STEPS = 256;
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const tables = {};

const schemeName = () => (darkScheme.matches && !printing ? "dark" : "light");

function channels(color) {
  return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
}

/** Colors at even steps between the stops, each with the ink that is read best on it. */
function tableOf(stops) {
  return Array.from({ length: STEPS + 1 }, (_, step) => {
    const along = (step / STEPS) * (stops.length - 1);
    const from = Math.min(Math.floor(along), stops.length - 2);
    const [low, high] = [channels(stops[from]), channels(stops[from + 1])];
    const mixed = low.map((value, i) => Math.round(value + (high[i] - value) * (along - from)));
    const [red, green, blue] = mixed.map((value) => (value / 255) ** 2.2);
    const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    return { fill: `rgb(${mixed.join(",")})`, ink: luminance > 0.22 ? "#101418" : "#ffffff" };
  });
}

function paletteTable(kind) {
  const name = `${schemeName()} ${kind}`;
  tables[name] ??= tableOf(STOPS[schemeName()][kind]);
  return tables[name];
}

/** The color of a signed value; square roots, so that small values are seen beside one large value. */
function diverging(value, limit) {
  const part = limit > 0 && Number.isFinite(value) ? Math.min(Math.abs(value) / limit, 1) : 0;
  return paletteTable("diverging")[Math.round((STEPS / 2) * (1 + Math.sign(value || 0) * Math.sqrt(part)))];
}

/** The color of a part between 0 and 1. */
function sequential(part) {
  return paletteTable("sequential")[Math.round(STEPS * inRange(Number.isFinite(part) ? part : 0, 0, 1))];
}

/** A color of the style sheet, by the name of its variable. */
const styleColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

let inks = null;

/** The style sheet's colors that canvases use. */
function canvasColors() {
  inks ??= Object.fromEntries(["ink", "soft", "card", "accent"].map((name) => [name, styleColor(name)]));
  return inks;
}

/** The unit in which effects up to `limit` nats are shown, and by what to multiply them for it. */
function unitOfEffects(limit) {
  if (limit >= 0.1) return { factor: 1, unit: "nats" };
  return limit >= 1e-4 ? { factor: 1000, unit: "10⁻³ nats" } : { factor: 1e6, unit: "10⁻⁶ nats" };
}

const tick = (value) => String(Number(value.toPrecision(2))).replace("-", "−");

/** Draw a scale with its numbers below: from -limit to limit, or from 0 to limit in one hue. */
function drawScale(context, x, y, width, limit, { hue = "diverging", unit = "", factor = 1, asText = tick } = {}) {
  const height = 10;
  for (let i = 0; i < width; i++) {
    const part = i / (width - 1);
    const side = 2 * part - 1;
    context.fillStyle = (hue === "diverging" ? diverging(side * Math.abs(side), 1) : sequential(part)).fill;
    context.fillRect(x + i, y, 1.5, height);
  }
  context.fillStyle = canvasColors().soft;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  const labels = TICKS[hue].map(([at, value]) => {
    const text = asText(value * limit * factor);
    const size = context.measureText(text).width;
    return { text, size, left: x + at * width - size * (at === 0 || at === 1 ? at : 0.5) };
  });
  const room = labels.slice(1).map(({ left }, i) => left - labels[i].left - labels[i].size);
  const step = Math.min(...room) < 8 ? 2 : 1; // fewer where they would touch
  labels.filter((_, i) => i % step === 0).forEach(({ text, left }) => context.fillText(text, left, y + height + 3));
  context.textAlign = "left";
  context.fillText(unit, x + width + 6, y - 1);
}

function whenSchemeChanges() {
  inks = null;
  schedule();
}

darkScheme.addEventListener("change", whenSchemeChanges);
for (const [event, now] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    printing = now;
    inks = null;
    drawings.forEach((draw) => draw());
  });
}
