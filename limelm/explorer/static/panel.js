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

function drawTokenPanel() {
  const model = currentModel();
  const t = state.token;
  say(byId("token-title"), `Token ${t}: ${tokenName(model, t)}`);
  const change = lossChange(t);
  byId("token-facts").replaceChildren(...factList([
    ["id", String(model.tokens[t].id)],
    ["text", JSON.stringify(model.tokens[t].text)],
    ["loss", model.loss[t] === null ? "none: nothing stands before it" : `${short(model.loss[t])} nats`],
    ["change by cuts", change === null ? null : `${signed(change)} nats`],
    ["followed by", t + 1 < model.tokens.length ? tokenName(model, t + 1) : "nothing: it is the last"],
  ]));
  if (data === untouched) drawPredictions(model);
  else drawBothPredictions(model, untouched.models[state.model]);
}

function drawRowTable(route) {
  const place = placeOf(currentModel(), route.place);
  const at = place.sources.indexOf(route.source);
  const t = scopeToken();
  const [weights, effects] = [weightsAt(place, t), effectsAt(place, t)];
  const each = place.sources.length * place.columns;
  const head = element("tr", {}, ...["head", "weight", "effect"].map((name) => element("th", {}, name)));
  byId("row-table").tHead.replaceChildren(head);
  byId("row-table").tBodies[0].replaceChildren(...place.rows.map((row, i) => {
    const start = i * each + at * place.columns;
    return element("tr", {},
      element("td", {}, rowName(row)),
      element("td", {}, weights ? [...weights.slice(start, start + place.columns)].map(short).join(", ") : "…"),
      element("td", {}, effects ? signed(effects[i * place.sources.length + at]) : "–"));
  }));
}

function drawRoutePanel() {
  const model = currentModel();
  if (!model.places.length) return;
  const route = shownRoute();
  say(byId("route-title"), `Route: ${routeTitle(model, route)}`);
  say(byId("pin-note"), state.pinned ? "Pinned; Escape lets it go." : "Follows the pointer; a click pins a route.");
  byId("pin-note").classList.toggle("pinned", state.pinned);
  const facts = [...routeFacts(route), ...rankFacts(route)];
  byId("route-facts").replaceChildren(...factList(facts));
  const spoken = facts.filter(([name, value]) => value && /^(weight|effect)/.test(name));
  say(byId("spoken"), `${routeTitle(model, route)}: ${spoken.map((fact) => fact.join(" ")).join("; ")}`);
  show(byId("row-details"), placeOf(model, route.place).rows.length > 1);
  drawRowTable(route);
}

function startPanel() {
  drawings.push(drawTokenPanel, drawRoutePanel);
}
