// The two maps of routes, weights and effects: places by sources, with the same order and the same highlighting.

const MAP = { most: 44, least: 5, head: 74, right: 34, tallest: 30 };

/** Sizes of both maps, from the width that one of them has. */
function mapLayout(available) {
  const model = currentModel();
  const sources = sourceCount(model);
  const gutter = gutterFor(model.places.map(({ name }) => name));
  const width = inRange((available - gutter - MAP.right) / sources, MAP.least, MAP.most);
  return { gutter, head: MAP.head, width, height: inRange(width, 6, MAP.tallest), sources, rows: model.places.length };
}

/** What the two maps show: the numbers of a place's cell and how large they get. */
const MAPS = {
  "router-map": {
    values: (entry) => entry.weights,
    dots: false,
    columns: (place) => place.columns,
    limit: () => currentNumbers().weightLimit,
    unit: () => ({ factor: 1, unit: "" }),
    what: "weights",
  },
  "effect-map": {
    values: (entry) => entry.effects,
    dots: true,
    columns: () => 1,
    limit: () => currentNumbers().effectLimit,
    unit: () => unitOfEffects(currentNumbers().effectLimit),
    what: "effects",
  },
};

/** A cell of a route that is cut: it says so, or, where there is no room, it is crossed out. */
function drawCutCell(context, x, y, { width, height }) {
  const { card, soft, ink } = canvasColors();
  context.fillStyle = card;
  context.fillRect(x, y, width, height);
  context.setLineDash([3, 2]);
  outline(context, x, y, width - 1, height - 1, soft, 1);
  context.setLineDash([]);
  if (width < 24 || height < 12) {
    drawCross(context, x + width / 5, y + height / 5, width * 0.6, height * 0.6);
    return;
  }
  context.fillStyle = ink;
  context.font = CELL_FONT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText("cut", x + width / 2, y + height / 2);
}

function drawCross(context, x, y, width, height) {
  context.strokeStyle = canvasColors().ink;
  context.lineWidth = inRange(width / 8, 1, 1.6);
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + width, y + height);
  context.moveTo(x, y + height);
  context.lineTo(x + width, y);
  context.stroke();
}

/** A small cross in the corner of a cell of which some heads are cut. */
function drawPartlyCut(context, x, y, { width, height }) {
  const size = Math.min(width, height) / 5;
  drawCross(context, x + 3, y + 3, size, size);
}

function drawCell(context, values, x, y, { width, height }, limit, factor) {
  const gap = width > 9 ? 1 : 0;
  const part = (width - gap) / values.length;
  values.forEach((value, i) => {
    const { fill, ink } = diverging(value, limit);
    context.fillStyle = fill;
    context.fillRect(x + i * part, y, part + (gap ? 0 : 0.5), height - gap + (gap ? 0 : 0.5));
    if (part < 34 || height < 16) return;
    context.fillStyle = ink;
    context.font = CELL_FONT;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(inCell(value * factor), x + (i + 0.5) * part, y + height / 2);
  });
}

/** A number in at most five characters. */
function inCell(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = value.toFixed(size >= 10 ? 0 : size >= 1 ? 1 : size >= 0.1 ? 2 : 3);
  return Number(text) === 0 ? "0" : text.replace(/^(-?)0\./, "$1.").replace("-", "−");
}

/** Whether a cell's effect was really measured: of exactly these heads, and in the scope that is shown. */
const hasDot = ({ ofSentence, measured, cut }, i) => ofSentence && measured[i] !== null && cut[i] < 1;

function drawDot(context, x, y, width) {
  const size = inRange(width / 8, 1.6, 3);
  context.beginPath();
  context.arc(Math.max(x + width - size - 3, x + width / 2), y + size + 2, size, 0, 2 * Math.PI);
  context.fillStyle = canvasColors().ink;
  context.fill();
  context.strokeStyle = canvasColors().card;
  context.lineWidth = 1;
  context.stroke();
}

function drawMapLabels(context, layout, route) {
  const model = currentModel();
  const { ink, soft } = canvasColors();
  const { gutter, head, width, height } = layout;
  context.textBaseline = "middle";
  const chosenRow = model.places.findIndex(({ place }) => place === route.place);
  model.places.forEach(({ name }, r) => {
    const chosen = r === chosenRow;
    if (!labelIsShown(r, height, chosenRow)) return;
    context.font = chosen ? `bold ${LABEL_FONT}` : LABEL_FONT;
    context.fillStyle = chosen ? ink : soft;
    context.textAlign = "right";
    context.fillText(shortened(name, 18), gutter - 5, head + (r + 0.5) * height, gutter - 6);
  });
  for (let source = 0; source < layout.sources; source++) {
    const chosen = source === route.source;
    if (!labelIsShown(source, width, route.source)) continue;
    context.font = chosen ? `bold ${LABEL_FONT}` : LABEL_FONT;
    context.fillStyle = chosen ? ink : soft;
    drawSlanted(context, shortened(sourceName(model, source), 15), gutter + (source + 0.5) * width, head - 6);
  }
}

function drawMap(id, layout) {
  const canvas = byId(id);
  const map = MAPS[id];
  const numbers = currentNumbers();
  const limit = map.limit();
  const context = fitted(canvas, layout.gutter + layout.sources * layout.width + MAP.right,
    layout.head + layout.rows * layout.height + 3);
  const { gutter, head, width, height } = layout;
  Object.assign(canvas.dataset, { gutter, head, width, height });
  numbers.places.forEach((entry, r) => {
    const values = map.values(entry);
    const columns = map.columns(entry.place);
    if (!values) return;
    entry.place.sources.forEach((source, i) => {
      const [x, y] = [gutter + source * width, head + r * height];
      if (entry.cut[i] === 1) return drawCutCell(context, x, y, layout);
      drawCell(context, values.slice(i * columns, (i + 1) * columns), x, y, layout, limit, map.unit().factor);
      if (entry.cut[i] > 0) drawPartlyCut(context, x, y, layout);
      if (map.dots && hasDot(entry, i)) drawDot(context, x, y, width);
    });
  });
  const route = hovered ?? shownRoute();
  drawMapLabels(context, layout, route);
  const { ink, accent } = canvasColors();
  const mark = ({ place, source }, color) => {
    const r = currentModel().places.findIndex((each) => each.place === place);
    if (r >= 0) outline(context, gutter + source * width - 1, head + r * height - 1, width + 1, height + 1, color, 2);
  };
  mark(shownRoute(), state.pinned ? accent : canvasColors().soft);
  if (hovered) mark(hovered, ink);
  canvas.setAttribute("aria-label", mapInWords(map, layout));
  const scale = byId(id.replace("map", "scale"));
  drawScale(fitted(scale, 340, 28), 4, 2, 260, limit, map.unit());
}

function mapInWords(map, layout) {
  const limit = short(map.limit());
  return `Map of ${map.what}: ${layout.rows} layers by ${layout.sources} sources, ${scopeWords()}, ` +
    `${keyName(state.row)}; from −${limit} to ${limit}. Arrow keys move; the route panel tells the numbers.`;
}

/** What the map of weights shows: of which heads, and where. */
function weightWords(model, t) {
  const moving = model.places.some(({ dependsOnTokens }) => dependsOnTokens);
  const heads = state.row === ALL_ROWS ? "mean size over the heads" : keyName(state.row);
  const split = model.places.some(({ columns }) => columns > 1) ? "; a cell is split by the heads of its source" : "";
  if (!moving) return `${heads}, the same at every token${split}`;
  return `${heads}, ${t === null ? "mean over the sentence" : `while reading ${tokenName(model, t)}`}${split}`;
}

/** What the map of effects shows: of which heads, and where. */
function effectWords(model, t) {
  const heads = state.row === ALL_ROWS ? "all heads together" : keyName(state.row);
  const { unit } = unitOfEffects(currentNumbers().effectLimit);
  const scope = t === null ? "whole sentence"
    : `the part of the sentence's effect that arises where ${tokenName(model, t)} reads; it may show at later tokens`;
  return `rise of the mean loss in ${unit}, ${heads}, ${scope}`;
}

/** How many cells are shown that are not cut, and how many of them were measured. */
function countDots() {
  const { places } = currentNumbers();
  return {
    dots: places.flatMap((entry) => entry.place.sources.filter((_, i) => hasDot(entry, i))).length,
    cells: places.reduce((sum, { cut }) => sum + cut.filter((part) => part < 1).length, 0),
  };
}

/** Which of the cells that are shown were measured. */
function dotWords() {
  if (scopeToken() !== null) {
    return "Effects at one token are estimates from the gradient; only those of the whole sentence are measured.";
  }
  const { dots, cells } = countDots();
  if (dots === 0) return "Effects are estimates from the gradient; none of these cells was really cut.";
  if (dots === cells) return `All ${cells} cells were really cut (dots).`;
  return `${dots} of these ${cells} cells were really cut (dots); the other numbers are estimates from the gradient.`;
}

const counted = (count, name) => (count ? [`${count} ${name}${count === 1 ? "" : "s"}`] : []);

/** The measured routes that check estimates: not those that were cut already, whose effect is zero either way. */
function checkedRoutes(model) {
  return model.measured.filter(({ place: number, row, source }) => {
    const place = placeOf(model, number);
    return !place || cutPart(place, source, row === null ? ALL_ROWS : rowKey(place.rows[row])) < 1;
  });
}

/** How many cells and single heads were measured. */
function measuredInWords(model, checked) {
  const isCell = ({ place, row }) => row === null || placeOf(model, place)?.rows.length === 1;
  const cells = checked.filter(isCell).length;
  return [...counted(cells, "cell"), ...counted(checked.length - cells, "single head")].join(" and ");
}

/** The measured route whose estimate was furthest off. */
function worstInWords(model, checked) {
  const off = ({ estimate, loss }) => Math.abs(loss - estimate);
  const worst = checked.reduce((most, route) => (off(route) > off(most) ? route : most));
  const place = placeOf(model, worst.place);
  const head = place && worst.row !== null && place.rows.length > 1 ? `, ${rowName(place.rows[worst.row])}` : "";
  const title = place ? routeTitle(model, worst) : `place ${worst.place} reads source ${worst.source}`;
  return `at most ${short(off(worst))} (${title}${head}: estimated ${signed(worst.estimate)}, ` +
    `measured ${signed(worst.loss)})`;
}

/** How far estimates were off, beside the size of what was measured. */
function errorWords(model) {
  const { effectError: error } = model;
  const checked = checkedRoutes(model);
  if (!error || !checked.length) return " No estimate was checked.";
  const size = meanOf(checked.map(({ loss }) => Math.abs(loss)));
  const correlation = error.correlation?.toFixed(2).replace("-", "−") ?? "–";
  const { dots, cells } = countDots();
  const isFar = error.meanAbsolute > size / 2 && dots < cells;
  const warning = isFar ? " That is too far: do not trust undotted cells." : "";
  return ` Over ${measuredInWords(model, checked)} that were really cut, estimates are off by ` +
    `${short(error.meanAbsolute)} nats on average, ${worstInWords(model, checked)}; ` +
    `measured effects have a mean size of ${short(size)} nats; correlation ${correlation}.${warning}`;
}

/** How far the effects can be trusted. */
function trustWords(model, known) {
  if (!known) return model.effectsMissing ?? "Effects were not measured for this model.";
  const cuts = state.cuts.length ? " Effects are those of further cuts, with these in place." : "";
  return dotWords() + errorWords(model) + cuts;
}

function drawMapCaptions() {
  const [model, t] = [currentModel(), scopeToken()];
  const known = model.places.some(({ effects }) => effects);
  show(byId("effect-figure"), known);
  say(byId("router-caption"), weightWords(model, t));
  say(byId("effect-caption"), effectWords(model, t));
  say(byId("trust"), trustWords(model, known));
  say(byId("sources-are"), model.sourcesAre ?? "");
  show(byId("sources-are"), Boolean(model.sourcesAre));
  say(byId("help-sources"), model.sourcesAre ?? "");
}

/** Buttons for the heads of some rows, by set; hidden where there is nothing to choose. */
function drawRowButtons(holder, keys) {
  show(holder.parentElement, keys.length > 1);
  const entries = [{ value: ALL_ROWS, label: "all", title: "All heads together" }];
  let group = "";
  for (const key of keys) {
    const dot = key.lastIndexOf(".");
    if (key.slice(0, dot) !== group) entries.push({ group: (group = key.slice(0, dot)) });
    entries.push({ value: key, label: key.slice(dot + 1), title: keyName(key) });
  }
  choice(holder, entries, state.row, (row) => update({ row }));
}

function drawMaps() {
  const model = currentModel();
  for (const id of ["maps", "reading", "flow", "route-panel"]) show(byId(id), model.places.length > 0);
  if (!model.places.length) return;
  choice(byId("scope"), [{ value: "sentence", label: "whole sentence" }, { value: "token", label: "selected token" }],
    state.scope, (scope) => update({ scope }));
  drawRowButtons(byId("rows"), rowKeys(model));
  const layout = mapLayout(byId("router-map").parentElement.clientWidth);
  for (const id of Object.keys(MAPS)) drawMap(id, layout);
  drawMapCaptions();
}

function routeBelow(event) {
  const { left, top } = event.currentTarget.getBoundingClientRect();
  const { gutter, head, width, height } = event.currentTarget.dataset;
  const source = Math.floor((event.clientX - left - gutter) / width);
  const place = currentModel().places[Math.floor((event.clientY - top - head) / height)];
  return place?.sources.includes(source) ? { place: place.place, source } : null;
}

function startMaps() {
  for (const canvas of [byId("router-map"), byId("effect-map")]) {
    canvas.addEventListener("pointermove", (event) => {
      const route = routeBelow(event);
      hover(route);
      if (route) showTip(event, routeTitle(currentModel(), route), routeFacts(route));
      else hideTip();
    });
    canvas.addEventListener("pointerleave", () => { hover(null); hideTip(); });
    canvas.addEventListener("click", (event) => {
      const route = routeBelow(event);
      if (route) chooseRoute(route);
    });
  }
  drawings.push(drawMaps);
}
