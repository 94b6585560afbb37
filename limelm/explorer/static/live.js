// A served page: other sentences are read and routes are cut by the program that serves it.

const NEEDS_SERVER = "Cutting routes and reading other sentences need a live page: limelm explore ... --serve";
let noteTimer = 0;

function showError(text) {
  say(byId("error"), text);
  show(byId("error"), text !== "");
}

/** Say what is waited for; an empty text where nothing is. */
function showWaiting(text) {
  clearTimeout(noteTimer);
  byId("status").classList.remove("note");
  say(byId("status"), text);
  show(byId("status"), text !== "");
  for (const button of [byId("cut"), ...byId("cuts").querySelectorAll("button")]) button.disabled = text !== "";
}

/** Say for a while what cannot be done on a page that nobody serves. */
function showNote(text) {
  say(byId("status"), text);
  byId("status").classList.add("note");
  show(byId("status"), true);
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => show(byId("status"), false), 6000);
}

/** Ask the server to read a text while routes are cut; the answer's data. */
async function ask(text, changes, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("explore", { method: "POST", headers, body: JSON.stringify({ text, changes }), signal });
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status} and no data.` }));
  if (!response.ok || answer.error) throw new Error(answer.error ?? `The server answered ${response.status}.`);
  return withBlocks(answer);
}

/** The data of a text untouched, to compare with, and with routes cut; the same twice where none is. */
async function askBoth(text, cuts, signal) {
  if (text !== untouched.text) showWaiting("Reading the sentence …");
  const before = text === untouched.text ? untouched : await ask(text, [], signal);
  signal.throwIfAborted();
  if (!cuts.length) return [before, before];
  showWaiting(`Reading with ${cuts.length === 1 ? "1 route" : `${cuts.length} routes`} cut …`);
  const after = await ask(text, cuts, signal);
  noteCuts(after.models, cuts);
  return [before, after];
}

/**
 * Show a text with routes cut, and with other changes of the state; whatever was asked before is given up.
 * The address says at once what is asked for. What is shown stays where the server fails.
 */
async function read(text, cuts, changes = {}) {
  wanted?.controller.abort();
  const own = (wanted = { text, cuts, changes: { ...changes }, controller: new AbortController() });
  showError("");
  markBusy();
  writeAddress();
  let answers = null;
  let problem = null;
  try {
    answers = await askBoth(text, cuts, own.controller.signal);
  } catch (error) {
    problem = error;
  }
  if (own !== wanted) return;
  wanted = null;
  showWaiting("");
  schedule();
  if (problem) {
    showError(problem instanceof TypeError ? "The server does not answer; is it still running?" : problem.message);
    return;
  }
  [untouched, data] = answers;
  dataVersion++;
  const token = text === state.text ? state.token : firstToken(data.models[state.model]);
  update({ token, ...own.changes, text, cuts });
  revealToken();
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

/** Add to what is waited for that a cut comes after it. */
function sayThatCutsWait() {
  const waits = " Cutting waits until this is done; then press c again.";
  const text = byId("status").textContent;
  if (!text.endsWith(waits)) say(byId("status"), text + waits);
}

/** Cut the route of the panel, or restore it where it is cut. */
function toggleCut() {
  if (!data.live) return showNote(NEEDS_SERVER);
  const route = routeToCut();
  if (!route) return;
  if (byId("cut").disabled) return sayThatCutsWait();
  update({ place: route.place, source: route.source });
  const others = state.cuts.filter((cut) => !sameCut(cut, route));
  read(state.text, others.length < state.cuts.length ? others : [...state.cuts, route]);
}

function cutInWords(cut) {
  const place = placeOf(currentModel(), cut.place);
  if (!place) return `place ${cut.place}, source ${cut.source}`;
  const row = cut.row === null ? "all heads" : rowName(place.rows[cut.row] ?? { set: "", head: cut.row });
  return `${routeTitle(currentModel(), cut)} (${row})`;
}

/** A difference with its sign and four decimals. */
const inDigits = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;

function drawCuts() {
  show(byId("read-form"), data.live);
  const route = data.live ? routeToCut() : null;
  show(byId("cut"), data.live);
  show(byId("needs-server"), !data.live);
  const isCut = route && state.cuts.some((cut) => sameCut(cut, route));
  const rows = state.row === ALL_ROWS ? "all heads of this route" : "this route";
  say(byId("cut"), route ? `${isCut ? "Restore" : "Cut"} ${rows}` : "This layer has no such head");
  show(byId("cuts"), state.cuts.length > 0);
  if (!state.cuts.length) return;
  const [now, before] = [data, untouched].map(({ models }) => meanOf(models[state.model].loss));
  say(byId("cuts-loss"), now === null ? "One token has no loss."
    : `Mean loss ${before.toFixed(4)} → ${now.toFixed(4)} nats (${inDigits(now - before)}).`);
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
  for (const id of ["needs-server", "help-server"]) say(byId(id), `${NEEDS_SERVER}.`);
  byId("read-form").addEventListener("submit", (event) => {
    event.preventDefault();
    read(byId("text").value, aimed().cuts);
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
