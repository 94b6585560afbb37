// The panels at the side: the selected token with what is expected after it, and the route that is chosen.

function chanceCell(probability) {
  const bar = element("i");
  bar.style.width = `${100 * inRange(probability, 0, 1)}%`;
  const track = element("span", { class: "track" }, bar);
  return element("td", { class: "chance" }, track, element("span", {}, percent(probability)));
}

/** The five tokens that are expected most, with a mark at the one that does follow. */
function drawPredictions(model) {
  const following = model.tokens[state.token + 1]?.id;
  const head = element("tr", {}, ...["token", "probability"].map((name) => element("th", {}, name)));
  byId("predictions").tHead.replaceChildren(head);
  byId("predictions").tBodies[0].replaceChildren(...model.predictions[state.token].map(({ id, probability }) => {
    const name = element("td", { title: `id ${id}` }, entryName(model, id));
    return element("tr", id === following ? { class: "follows" } : {}, name, chanceCell(probability));
  }));
}

/** What is expected with the routes cut beside what was before, for every token that is in either list. */
function drawBothPredictions(model, before) {
  const chances = (list) => new Map(list.map(({ id, probability }) => [id, probability]));
  const [was, is] = [before, model].map(({ predictions }) => chances(predictions[state.token]));
  const following = model.tokens[state.token + 1]?.id;
  const head = element("tr", {}, ...["token", "untouched", "cut"].map((name) => element("th", {}, name)));
  byId("predictions").tHead.replaceChildren(head);
  const ids = [...new Set([...was.keys(), ...is.keys()])];
  byId("predictions").tBodies[0].replaceChildren(...ids.map((id) => element(
    "tr", id === following ? { class: "follows" } : {},
    element("td", { title: `id ${id}` }, entryName(model.vocabulary[id] === undefined ? before : model, id)),
    element("td", {}, was.has(id) ? percent(was.get(id)) : "not in 5"),
    element("td", {}, is.has(id) ? percent(is.get(id)) : "not in 5"),
  )));
}

/** How badly a token was expected from those before it, and by how much cuts changed that. */
function lossWords(model, t) {
  if (model.loss[t] === null) return "none: nothing stands before it";
  const change = lossChange(t);
  return `${short(model.loss[t])} nats${change === null ? "" : ` (${signed(change)} by the cuts)`}`;
}

function drawTokenPanel() {
  const model = currentModel();
  const t = state.token;
  say(byId("token-title"), `Token ${t}: ${tokenName(model, t)}`);
  const follows = t + 1 < model.tokens.length;
  say(byId("following"), follows
    ? `Followed by ${tokenName(model, t + 1)}, loss of it ${lossWords(model, t + 1)}.`
    : "Nothing follows: it is the last.");
  byId("token-facts").replaceChildren(...factList([
    ["id", String(model.tokens[t].id)],
    ["text", JSON.stringify(model.tokens[t].text)],
    ["loss of this token", lossWords(model, t)],
  ]));
  if (data === untouched) drawPredictions(model);
  else drawBothPredictions(model, untouched.models[state.model]);
}

/** One head of a route as a row of the table: its weight, and its effects or that it is cut. */
function rowCells(place, at, i, { weights, withMeasured }) {
  const t = scopeToken();
  const { estimates, measured } = effectsOf(currentModel(), place, t, rowKey(place.rows[i]));
  const start = (i * place.sources.length + at) * place.columns;
  const weight = weights ? [...weights.slice(start, start + place.columns)].map(short).join(", ") : "…";
  const own = withMeasured ? [measured[at] ? signed(measured[at].loss) : "–"] : [];
  if (cutRows(place, place.sources[at])[i]) return ["cut", "cut", ...own.map(() => "cut")];
  return [weight, estimates ? signed(estimates[at]) : "–", ...own];
}

/** Every head of a route; what was measured has a column where the other numbers are of the whole sentence too. */
function drawRowTable(route) {
  const place = placeOf(currentModel(), route.place);
  const at = place.sources.indexOf(route.source);
  const t = scopeToken();
  const weights = weightsAt(place, t);
  const withMeasured = t === null && place.rows.some((_, row) => measuredAt(currentModel(), place, row, route.source));
  const names = ["head", "weight", "estimated", ...(withMeasured ? ["measured"] : [])];
  byId("row-table").tHead.replaceChildren(element("tr", {}, ...names.map((name) => element("th", {}, name))));
  byId("row-table").tBodies[0].replaceChildren(...place.rows.map((row, i) => element("tr", {},
    ...[rowName(row), ...rowCells(place, at, i, { weights, withMeasured })].map((text) => element("td", {}, text)))));
}

function drawRoutePanel() {
  const model = currentModel();
  if (!model.places.length) return;
  const route = shownRoute();
  say(byId("route-title"), `Route: ${routeTitle(model, route)}`);
  say(byId("pin-note"), state.pinned ? "Pinned; Escape lets it go, a click pins another route."
    : "Click pins. Until then this is the route that was pointed at last.");
  byId("pin-note").classList.toggle("pinned", state.pinned);
  const facts = [...routeFacts(route), ...rankFacts(route)];
  byId("route-facts").replaceChildren(...factList(facts));
  const spoken = facts.filter(([name, value]) => value && /^(weight|effect|this)/.test(name));
  say(byId("spoken"), `${routeTitle(model, route)}: ${spoken.map((fact) => fact.join(" ")).join("; ")}`);
  show(byId("row-details"), placeOf(model, route.place).rows.length > 1);
  drawRowTable(route);
}

function startPanel() {
  drawings.push(drawTokenPanel, drawRoutePanel);
}
