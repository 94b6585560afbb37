// State: what is chosen on the page. It stands in the address, so that a link or a reload brings it back.

let data = null; // what is shown
let untouched = null; // the same sentence with no route cut; `data` itself where none is
const state = {
  model: 0,
  minus: null, // the number of the model that is subtracted, or "untouched"
  token: 0,
  place: null,
  row: ALL_ROWS,
  source: 0,
  pinned: false,
  scope: "sentence", // or "token"
  lens: "lens", // or "sourceLens"
  chance: "best", // or "next"
  flow: null, // percent of what is read that the flow's arcs show; null: as much as stays clear
  text: "",
  cuts: [], // {place, row or null, source}
};
let wanted = null; // the text and cuts that the server is being asked for: {text, cuts, changes, controller}
let hovered = null; // {place, source} below the pointer
let looked = null; // {place, source} that was below the pointer last, since a route was chosen
const drawings = []; // functions that bring a view up to date
let scheduled = false;
let addressTimer = 0;

/** What is chosen, with the text and the cuts that are still being asked for. */
function aimed() {
  const { text, cuts } = wanted ?? state;
  return { ...state, ...wanted?.changes, text, cuts };
}

const currentModel = () => data.models[state.model];
const currentPlace = () => placeOf(currentModel(), state.place);

/** The model that is subtracted from the current one, if any. */
function subtracted() {
  if (state.minus === null) return null;
  return state.minus === "untouched" ? untouched.models[state.model] : data.models[state.minus];
}

/** The token whose numbers the maps show, or null for the sentence. */
const scopeToken = () => (state.scope === "token" ? state.token : null);

/** The route that the panel tells of: the pinned one, else the one pointed at last, else the last one chosen. */
function shownRoute() {
  return looked ?? { place: state.place, source: state.source };
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    drawings.forEach((draw) => draw());
  });
}

function writeAddress() {
  clearTimeout(addressTimer);
  if (location.protocol === "about:") return; // in a notebook's frame, which has no address
  history.replaceState(null, "", `#${address()}`);
}

function update(changes) {
  Object.assign(state, changes);
  for (const name of Object.keys(changes)) delete wanted?.changes[name]; // the last choice counts
  if ("place" in changes || "source" in changes) looked = null;
  settle();
  schedule();
  clearTimeout(addressTimer);
  addressTimer = setTimeout(writeAddress, 120);
}

const sameRoute = (one, other) => one?.place === other?.place && one?.source === other?.source;

function hover(route) {
  const follows = state.pinned || !route ? looked : route;
  if (sameRoute(hovered, route) && sameRoute(looked, follows)) return;
  hovered = route;
  looked = follows;
  schedule();
}

const inRange = (value, low, high) => Math.min(Math.max(value, low), high);

/** The route with the largest effect, to begin with one that matters. */
function strongestRoute(model) {
  let best = { place: model.places.at(-1).place, source: 0, size: -1 };
  for (const place of model.places) {
    bestEffectsOf(model, place, null, ALL_ROWS)?.forEach((value, i) => {
      if (Math.abs(value) > best.size) best = { place: place.place, source: place.sources[i], size: Math.abs(value) };
    });
  }
  return best;
}

/** Bring the state into the bounds of what there is. */
function settle() {
  state.model = inRange(state.model, 0, data.models.length - 1);
  const model = currentModel();
  if (state.minus === state.model || (state.minus !== "untouched" && !data.models[state.minus])) state.minus = null;
  if (state.minus === "untouched" && data === untouched) state.minus = null;
  state.token = inRange(state.token, 0, model.tokens.length - 1);
  const isThere = (route) => placeOf(model, route.place)?.sources.includes(route.source);
  if (hovered && !isThere(hovered)) hovered = null;
  if (looked && !isThere(looked)) looked = null;
  if (!model[state.lens]) state.lens = "lens";
  const keys = rowKeys(model);
  if (keys.length === 1) [state.row] = keys; // all rows would hide its signs
  else if (!keys.includes(state.row)) state.row = ALL_ROWS;
  if (!model.places.length) return;
  if (!currentPlace()) {
    const { place, source } = strongestRoute(model);
    Object.assign(state, { place, source });
  }
  if (!currentPlace().sources.includes(state.source)) state.source = ownInput(currentPlace());
}

const cutText = ({ place, row, source }) => `${place}-${row ?? "all"}-${source}`;

function address() {
  const { model, minus, token, place, row, source, pinned, scope, lens, chance, flow, text, cuts } = aimed();
  const parts = new URLSearchParams({ model, token, row, scope, lens, chance });
  if (place !== null) parts.set("route", `${place}-${source}`);
  if (flow !== null) parts.set("flow", flow);
  if (pinned) parts.set("pinned", 1);
  if (minus !== null) parts.set("minus", minus);
  if (data.live) parts.set("text", text);
  if (cuts.length) parts.set("cuts", cuts.map(cutText).join(","));
  return parts.toString();
}

const oneOf = (value, allowed, otherwise) => (allowed.includes(value) ? value : otherwise);
const numberIn = (text, otherwise) => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : otherwise);

/** What an address says; whatever it does not say, or says wrongly, stays as it is. */
function fromAddress(hash) {
  const now = aimed();
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const route = /^(\d{1,6})-(\d{1,6})$/.exec(parts.get("route") ?? "");
  const minusText = parts.get("minus");
  const cuts = (parts.get("cuts") ?? "").split(",").map((cut) => /^(\d{1,6})-(\d{1,6}|all)-(\d{1,6})$/.exec(cut));
  return {
    model: numberIn(parts.get("model"), now.model),
    minus: minusText === "untouched" ? minusText : numberIn(minusText, null),
    token: numberIn(parts.get("token"), now.token),
    place: route ? Number(route[1]) : now.place,
    source: route ? Number(route[2]) : now.source,
    row: parts.get("row") ?? now.row,
    pinned: parts.get("pinned") === "1",
    scope: oneOf(parts.get("scope"), ["sentence", "token"], now.scope),
    lens: oneOf(parts.get("lens"), ["lens", "sourceLens"], now.lens),
    chance: oneOf(parts.get("chance"), ["best", "next"], now.chance),
    flow: parts.has("flow") ? inRange(numberIn(parts.get("flow"), 80), 10, 100) : now.flow,
    text: parts.get("text") ?? now.text,
    cuts: cuts.filter(Boolean).map(([, place, row, source]) => (
      { place: Number(place), row: row === "all" ? null : Number(row), source: Number(source) })),
  };
}
