// The keys, and the help that lists them.

/** Move by `step` in a list, and stay at its ends. */
function neighbor(list, value, step) {
  return list[inRange(list.indexOf(value) + step, 0, list.length - 1)];
}

function movePlace(step) {
  const { places } = currentModel();
  if (!places.length) return;
  const from = shownRoute();
  const place = neighbor(places, placeOf(currentModel(), from.place), step);
  const source = inRange(from.source, place.sources[0], ownInput(place));
  chooseRoute({ place: place.place, source });
}

function moveSource(step) {
  const { place, source } = shownRoute();
  const from = placeOf(currentModel(), place);
  if (from) chooseRoute({ place, source: neighbor(from.sources, source, step) });
}

function moveRow(step) {
  update({ row: neighbor([ALL_ROWS, ...rowKeys(currentModel())], state.row, step) });
}

const moveToken = (step) => chooseToken(state.token + step);

const changeScope = () => update({ scope: state.scope === "token" ? "sentence" : "token" });

function focusOn(id) {
  byId(id).focus();
  byId(id).scrollIntoView({ block: "nearest" });
}

const openHelp = () => byId("help").showModal();

/** Each key with what it does; keys in one entry are listed together. */
const KEYS = [
  [{ ArrowLeft: () => moveToken(-1), ArrowRight: () => moveToken(1) }, "← →", "token before, after"],
  [{ ArrowUp: () => movePlace(-1), ArrowDown: () => movePlace(1) }, "↑ ↓", "layer before, after"],
  [{ a: () => moveSource(-1), s: () => moveSource(1) }, "a s", "source before, after"],
  [{ "[": () => moveRow(-1), "]": () => moveRow(1) }, "[ ]", "head before, after"],
  [{ t: changeScope }, "t", "selected token or whole sentence"],
  [{ m: () => chooseModel((state.model + 1) % data.models.length) }, "m", "next model"],
  [{ p: () => chooseRoute(shownRoute()), Escape: () => update({ pinned: false }) }, "p Esc",
    "pin the route, let it go"],
  [{ c: toggleCut }, "c", "cut or restore the route (live page)"],
  [{ w: () => focusOn("router-map"), e: () => focusOn("effect-map") }, "w e", "go to the weights, the effects"],
  [{ r: () => focusOn("reading-grid"), l: () => focusOn("lens-grid"), f: () => focusOn("flow-arcs") }, "r l f",
    "go to the reading, the lens, the flow"],
  [{ "?": openHelp }, "?", "this help"],
];

function whenKeyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.closest("input, select, textarea")) return;
  const action = Object.assign({}, ...KEYS.map(([actions]) => actions))[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function startKeyboard() {
  byId("keys").replaceChildren(...KEYS.flatMap(([, keys, meaning]) => [
    element("dt", {}, ...keys.split(" ").flatMap((key) => [element("kbd", {}, key), " "])),
    element("dd", {}, meaning),
  ]));
  byId("help-button").addEventListener("click", openHelp);
  byId("help-close").addEventListener("click", () => byId("help").close());
  document.addEventListener("keydown", whenKeyDown);
}
