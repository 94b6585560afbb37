// A served page: other sentences are read and routes are cut by the program that serves it.

let asked = null; // the AbortController of the request that is under way

function showError(text) {
  say(byId("error"), text);
  show(byId("error"), text !== "");
}

function showWaiting(text) {
  say(byId("status"), text);
  show(byId("status"), text !== "");
  byId("cut").disabled = text !== "";
  byId("restore").disabled = text !== "";
}

/** Ask the server to read a text while routes are cut; the answer's data. */
async function ask(text, changes, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("explore", { method: "POST", headers, body: JSON.stringify({ text, changes }), signal });
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status} and no data.` }));
  if (!response.ok || answer.error) throw new Error(answer.error ?? `The server answered ${response.status}.`);
  return withBlocks(answer);
}

/**
 * Show a text with routes cut, and with other changes of the state; whatever was asked before is given up.
 * What is shown stays where the server fails.
 */
async function read(text, cuts, changes = {}) {
  asked?.abort();
  const own = (asked = new AbortController());
  showError("");
  const count = cuts.length === 1 ? "1 route" : `${cuts.length} routes`;
  showWaiting(cuts.length ? `Reading with ${count} cut …` : "Reading the sentence …");
  try {
    const before = text === untouched.text ? untouched : await ask(text, [], own.signal);
    const after = cuts.length ? await ask(text, cuts, own.signal) : before;
    if (own !== asked) return;
    [untouched, data] = [before, after];
    dataVersion++;
    update({ token: text === state.text ? state.token : Infinity, ...changes, text, cuts });
    byId("text").value = text;
    revealToken();
  } catch (error) {
    if (own !== asked) return;
    showError(error instanceof TypeError ? "The server does not answer; is it still running?" : error.message);
  }
  showWaiting("");
}

const sameCut = (one, other) => cutText(one) === cutText(other);

/** The route of the panel as the server is told of it; null where the place has no such row. */
function routeToCut() {
  const route = shownRoute();
  const place = placeOf(currentModel(), route.place);
  if (!place) return null;
  const row = state.row === ALL_ROWS ? null : rowOf(place, state.row);
  return row === -1 ? null : { place: route.place, row, source: route.source };
}

/** Cut the route of the panel, or restore it where it is cut. */
function toggleCut() {
  const route = data.live ? routeToCut() : null;
  if (!route || byId("cut").disabled) return;
  const others = state.cuts.filter((cut) => !sameCut(cut, route));
  read(state.text, others.length < state.cuts.length ? others : [...state.cuts, route]);
}

function cutInWords(cut) {
  const place = placeOf(currentModel(), cut.place);
  if (!place) return `place ${cut.place}, source ${cut.source}`;
  const row = cut.row === null ? "all heads" : rowName(place.rows[cut.row] ?? { set: "", head: cut.row });
  return `${routeTitle(currentModel(), cut)} (${row})`;
}

function drawCuts() {
  show(byId("read-form"), data.live);
  const route = data.live ? routeToCut() : null;
  show(byId("cut"), data.live);
  const isCut = route && state.cuts.some((cut) => sameCut(cut, route));
  const rows = state.row === ALL_ROWS ? "all heads of this route" : "this route";
  say(byId("cut"), route ? `${isCut ? "Restore" : "Cut"} ${rows}` : "This layer has no such head");
  show(byId("cuts"), state.cuts.length > 0);
  if (!state.cuts.length) return;
  const [now, before] = [data, untouched].map(({ models }) => meanOf(models[state.model].loss));
  say(byId("cuts-loss"), `Mean loss ${short(before)} → ${short(now)} nats (${signed(now - before)}).`);
  const key = JSON.stringify([state.cuts, state.model, dataVersion]);
  if (byId("cut-list").dataset.key === key) return;
  byId("cut-list").dataset.key = key;
  byId("cut-list").replaceChildren(...state.cuts.map((cut) => {
    const undo = element("button", { type: "button", "aria-label": `Undo: ${cutInWords(cut)}` }, "undo");
    undo.addEventListener("click", () => read(state.text, state.cuts.filter((other) => other !== cut)));
    return element("li", {}, element("span", {}, cutInWords(cut)), undo);
  }));
}

function startLive() {
  byId("read-form").addEventListener("submit", (event) => {
    event.preventDefault();
    read(byId("text").value, []);
  });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("read-form").requestSubmit();
  });
  byId("cut").addEventListener("click", toggleCut);
  byId("restore").addEventListener("click", () => read(state.text, []));
  drawings.push(drawCuts);
}
