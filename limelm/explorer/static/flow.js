// Flow: the places as a column of nodes, and arcs from what each reads, in the sentence or at the selected token.

const FLOW = { top: 14, tallest: 30, least: 9, height: 560, clear: 150, listed: 12 };
const SVG = "http://www.w3.org/2000/svg";
let flowKey = "";

function svgElement(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Why a model's routes have no effects in the scope that is shown; an empty text where they have. */
function whyNoFlowEffects(model) {
  if (!model.places.some(({ effects }) => effects)) return model.effectsMissing ?? "Effects were not measured.";
  const isLast = scopeToken() === model.tokens.length - 1;
  return isLast ? "Shares only: nothing follows this token, so reading at it has no effect." : "";
}

/**
 * Every route that is not cut, in the scope that is shown: its share of what its place reads (null until the mean
 * is taken) and its effect; the largest share first.
 */
function flowRoutes(model) {
  const t = scopeToken();
  const noEffects = whyNoFlowEffects(model) !== "";
  const routes = model.places.flatMap((place) => {
    const shares = sharesAt(place, t);
    const { estimates, measured } = effectsOf(model, place, t, ALL_ROWS);
    const effects = noEffects ? null : bestEffects({ estimates, measured }, t === null);
    return place.sources.map((source, i) => ({
      place: place.place, source, to: ownOutput(model, place), share: shares ? shares[i] : null,
      effect: effects ? effects[i] : null, estimate: effects ? estimates[i] : null,
      measured: effects && t === null ? measured[i] : null, cut: cutPart(place, source, ALL_ROWS),
    }));
  });
  return routes.filter(({ cut }) => cut < 1).sort((one, other) => other.share - one.share);
}

/** Of each place the strongest routes that together carry so many percent of what it reads, the largest share first. */
function strongest(routes, percentOfEach) {
  const carried = new Map();
  return routes.filter(({ place, share }) => {
    const before = carried.get(place) ?? 0;
    carried.set(place, before + share);
    return before < percentOfEach / 100 - 1e-6;
  });
}

/** How many percent of what is read the arcs show: as chosen, else as much as fits in a clear picture. */
function flowPercent(routes) {
  let part = state.flow ?? 80;
  while (state.flow === null && part > 10 && strongest(routes, part).length > FLOW.clear) part -= 5;
  return part;
}

/** What shares are parts of. */
const shareWords = () => `share of what is ${state.cuts.length ? "still " : ""}read`;

/** A hue for the sign of the effect, more of it the larger that is. */
function arcStroke(effect, limit) {
  if (effect === null) return { stroke: canvasColors().soft, "stroke-opacity": 0.6 };
  const part = limit > 0 ? Math.sqrt((Math.abs(effect) || 0) / limit) : 0;
  return { stroke: diverging(Math.sign(effect) * 0.4, 1).fill, "stroke-opacity": (0.22 + 0.78 * part).toFixed(3) };
}

function arcElement(route, { x, y, step, reach, limit }) {
  const [from, to] = [y(route.source), y(route.to)];
  const loop = from === to ? step * 1.3 : 0; // what a layer reads of what it makes itself
  const width = reach(route.to - route.source) * 4 / 3;
  const arc = svgElement("path", {
    d: `M${x} ${from} C${x + width} ${from - loop} ${x + width} ${to + loop} ${x} ${to}`,
    "stroke-width": (0.7 + 8 * route.share).toFixed(2), "data-place": route.place, "data-source": route.source,
    ...arcStroke(route.effect, limit),
  });
  arc.addEventListener("pointermove", (event) => {
    hover(route);
    showTip(event, routeTitle(currentModel(), route), [
      ["at", scopeWords()],
      [shareWords(), percent(route.share)],
      ["effect, estimated", route.estimate === null ? null : effectInWords(route.estimate, null, false)],
      ["effect, measured", route.measured ? effectInWords(route.measured.loss, route.measured.kl, false) : null],
    ]);
  });
  arc.addEventListener("pointerleave", () => { hover(null); hideTip(); });
  arc.addEventListener("click", () => chooseRoute(route));
  return arc;
}

function nodeElements(number, name, x, y) {
  const label = svgElement("text", { x: x - 9, y: y + 4, "text-anchor": "end", "data-node": number });
  label.textContent = shortened(name, 18);
  return [svgElement("circle", { cx: x, cy: y, r: 3.2 }), label];
}

function layOutFlow(model, width) {
  const names = new Map();
  for (const { name, sources, ...place } of model.places) {
    sources.forEach((source) => names.set(source, sourceName(model, source)));
    const output = ownOutput(model, { sources, ...place });
    if (!names.has(output)) names.set(output, model.sourceNames[output] ?? name);
  }
  const numbers = [...names.keys()].sort((one, other) => one - other);
  const step = inRange(FLOW.height / numbers.length, FLOW.least, FLOW.tallest);
  const order = new Map(numbers.map((number, i) => [number, i]));
  const x = gutterFor([...names.values()]) + 8;
  const longest = Math.max(1, numbers.length - 1);
  const room = Math.min(width - x - 20, longest * step * 1.1);
  return {
    names, numbers, step, x,
    y: (number) => FLOW.top + order.get(number) * step,
    reach: (distance) => Math.max(step * 0.8, room * (distance / longest) ** 0.85),
    height: FLOW.top * 2 + (numbers.length - 1) * step,
  };
}

/** The routes that matter most, or where effects are not known the most read ones, as buttons. */
function drawFlowTable(model, routes) {
  const known = routes.some(({ effect }) => effect !== null);
  const size = known ? ({ effect }) => Math.abs(effect) : ({ share }) => share;
  const first = [...routes].sort((one, other) => size(other) - size(one)).slice(0, FLOW.listed);
  const table = byId("flow-table");
  const where = scopeToken() === null ? "in the whole sentence" : "where this token reads";
  const dots = first.some(({ measured }) => measured) ? " (● measured, others estimated)" : "";
  say(table.caption, `Routes that ${known ? "matter" : "are read"} most ${where}${dots}`);
  const names = known ? ["route", "share", "effect"] : ["route", "share"];
  table.tHead.replaceChildren(element("tr", {}, ...names.map((name) => element("th", {}, name))));
  table.tBodies[0].replaceChildren(...first.map((route) => {
    const button = element("button", { type: "button", class: "link" }, routeTitle(model, route));
    button.addEventListener("click", () => chooseRoute(route));
    button.addEventListener("pointerenter", () => hover(route));
    button.addEventListener("pointerleave", () => hover(null));
    const cells = [percent(route.share), ...(known ? [(route.measured ? "● " : "") + signed(route.effect)] : [])];
    return element("tr", {}, element("td", {}, button), ...cells.map((text) => element("td", {}, text)));
  }));
}

function drawArcs(model, width) {
  const svg = byId("flow-arcs");
  const routes = flowRoutes(model);
  const read = routes.filter(({ share }) => share !== null);
  const part = flowPercent(read);
  const shown = strongest(read, part);
  byId("flow-share").value = part;
  say(byId("flow-name"), `${part}%`);
  const limit = largest([routes.map(({ effect }) => effect ?? 0)]);
  const layout = layOutFlow(model, width);
  svg.setAttribute("width", width);
  svg.setAttribute("height", layout.height);
  const arcs = shown.toReversed().map((route) => arcElement(route, { ...layout, limit }));
  const nodes = layout.numbers.flatMap((number) => {
    const [circle, label] = nodeElements(number, layout.names.get(number), layout.x, layout.y(number));
    return layout.numbers.indexOf(number) % labelStep(layout.step) ? [circle] : [circle, label];
  });
  svg.replaceChildren(...arcs, ...nodes);
  drawFlowTable(model, routes);
  const where = scopeToken() === null ? "in the whole sentence" : "at the selected token";
  say(byId("flow-title"), `Flow through depth ${where}`);
  say(byId("flow-lead"), flowWords(model, shown, routes));
  svg.setAttribute("aria-label", byId("flow-lead").textContent);
}

/** What the arcs are: their scope, width, color and ends. */
function flowWords(model, shown, routes) {
  const name = tokenName(model, state.token);
  const where = scopeToken() === null ? "in the whole sentence (shares are means over its tokens)" : `at ${name}`;
  const part = scopeToken() === null ? "" : `; an effect is the part that arises where ${name} reads`;
  const color = "Orange arcs help (cutting them would raise the loss), blue ones hurt; more color is more of it";
  return [
    `What each layer reads ${where}: ${shown.length} of ${routes.length} routes; width is the ${shareWords()}.`,
    "An arc begins at a source and ends at what the layer hands on.",
    whyNoFlowEffects(model) || `${color}${part}.`,
    `The chosen route is ${schemeName() === "dark" ? "white" : "black"}.`,
    ...(state.cuts.length ? ["Routes that are cut are not drawn."] : []),
  ].join(" ");
}

function drawFlow() {
  const model = currentModel();
  if (!model.places.length) return;
  const svg = byId("flow-arcs");
  const width = svg.parentElement.clientWidth;
  const { model: number, token, scope, flow } = state;
  const key = [dataVersion, meansTaken, number, token, scope, flow, width, schemeName()].join("|");
  if (flowKey !== key) drawArcs(model, width);
  flowKey = key;
  const route = hovered ?? shownRoute();
  const place = placeOf(model, route.place);
  for (const arc of svg.querySelectorAll("path")) {
    const [to, from] = [Number(arc.dataset.place), Number(arc.dataset.source)];
    arc.classList.toggle("near", to === route.place);
    arc.classList.toggle("chosen", to === route.place && from === route.source);
  }
  for (const label of svg.querySelectorAll("text")) {
    const number = Number(label.dataset.node);
    label.classList.toggle("chosen", number === route.source || number === ownOutput(model, place));
  }
  svg.classList.toggle("near", hovered !== null);
}

function startFlow() {
  byId("flow-share").addEventListener("input", (event) => update({ flow: Number(event.target.value) }));
  drawings.push(drawFlow);
}
