// Routes: the numbers of all of them for what is chosen (kept until the choice changes), and a route in words.

let routeNumbers = null;
let routeNumbersKey = "";
let dataVersion = 0; // counts the answers of a server

/** Why the weights and the effects are not shown as a difference though one is asked for; empty where they are. */
function differenceReasons() {
  const other = subtracted();
  if (!other) return { weights: "", effects: "" };
  const t = scopeToken();
  return { weights: weightsDiffer(currentModel(), other, t), effects: effectsDiffer(currentModel(), other, t) };
}

function numbersOfPlace(place, other, reasons, t) {
  const of = (each) => ({
    weights: weightsOfRow(each, weightsAt(each, t), state.row),
    effects: effectsOfRow(each, effectsAt(each, t), state.row),
  });
  const own = of(place);
  const against = other ? placeOf(other, place.place) : null;
  const taken = against && (!reasons.weights || !reasons.effects) ? of(against) : null;
  return {
    place,
    weights: other && !reasons.weights ? minus(own.weights, taken.weights) : own.weights,
    effects: other && !reasons.effects ? minus(own.effects, taken.effects) : own.effects,
  };
}

const largest = (lists) => lists.reduce(
  (most, list) => (list ?? []).reduce((size, value) => Math.max(size, Math.abs(value) || 0), most), 0);

/** For every place its weights [sources x columns] and effects [sources] as chosen, with the largest sizes of both. */
function currentNumbers() {
  const t = scopeToken();
  const key = [dataVersion, meansTaken, state.model, state.minus, t, state.row].join("|");
  if (routeNumbersKey === key) return routeNumbers;
  const reasons = differenceReasons();
  const places = currentModel().places.map((place) => numbersOfPlace(place, subtracted(), reasons, t));
  routeNumbers = {
    reasons,
    places,
    byPlace: new Map(places.map((entry) => [entry.place.place, entry])),
    weightLimit: largest(places.map(({ weights }) => weights)),
    effectLimit: largest(places.map(({ effects }) => effects)),
  };
  routeNumbersKey = key;
  return routeNumbers;
}

/** The weights of a source (one for each column) and its effect, as chosen; null where they are not known. */
function numbersOf({ place, source }) {
  const entry = currentNumbers().byPlace.get(place);
  const at = entry ? entry.place.sources.indexOf(source) : -1;
  if (at < 0) return null;
  const { columns } = entry.place;
  return {
    weights: entry.weights ? [...entry.weights.slice(at * columns, (at + 1) * columns)] : null,
    effect: entry.effects ? entry.effects[at] : null,
    entry,
    at,
  };
}

function routeTitle(model, { place, source }) {
  return `${placeOf(model, place).name} reads ${sourceName(model, source)}`;
}

/** A token and the id by which the model knows it. */
function tokenWords(model, t) {
  return `${tokenName(model, t)} (position ${t}, id ${model.tokens[t].id})`;
}

/** Where numbers were taken: at a token, or over the sentence. */
const scopeWords = () => (scopeToken() === null ? "whole sentence" : tokenWords(currentModel(), state.token));

function measuredWords(routes, place) {
  return routes.map(({ row, loss, kl }) => {
    const name = routes.length > 1 || state.row === ALL_ROWS ? `${rowName(place.rows[row])}: ` : "";
    return `${name}${signed(loss)} nats (KL ${short(kl)})`;
  }).join("; ");
}

/** A route's place, row, weight and effects as pairs of a name and a value. */
function routeFacts(route) {
  const model = currentModel();
  const numbers = numbersOf(route);
  if (!numbers) return [["", "not read here"]];
  const { place } = numbers.entry;
  const difference = subtracted();
  const measured = difference ? [] : measuredRoutes(model, place, route.source, state.row);
  const sum = state.row === ALL_ROWS && place.rows.length > 1;
  const noWeights = state.row === ALL_ROWS || rowOf(place, state.row) >= 0 ? "…" : "no such head here";
  const minusWord = difference ? ", difference" : "";
  return [
    ["head", headOf(state.row)],
    ["source", `${sourceName(model, route.source)} (number ${route.source})`],
    ["at", scopeWords()],
    [`weight${sum ? ", mean size" : ""}${minusWord}`,
      numbers.weights ? numbers.weights.map(short).join(", ") : noWeights],
    [`effect, ${sum ? "sum of heads" : "estimated"}${minusWord}`,
      numbers.effect === null ? null : `${signed(numbers.effect)} nats`],
    ["effect, measured", measuredWords(measured, place)],
  ];
}

/** Where a value stands among others by size, the largest first. */
function rankOf(values, at) {
  const rank = 1 + values.filter((value) => Math.abs(value) > Math.abs(values[at])).length;
  return `${ordinal(rank)} of ${values.length}`;
}

/** A route's rank among all routes of its place: among the sources and rows, or the sources alone for all rows. */
function rankFacts(route) {
  const numbers = numbersOf(route);
  if (!numbers || subtracted()) return [];
  const { place } = numbers.entry;
  const t = scopeToken();
  const [weights, effects] = [weightsAt(place, t), effectsAt(place, t)];
  if (!weights || !numbers.weights) return [];
  const sizes = state.row === ALL_ROWS ? weightsOfRow(place, weights, ALL_ROWS) : weights;
  const perSource = Array.from({ length: sizes.length / place.columns }, (_, i) => (
    Math.max(...sizes.slice(i * place.columns, (i + 1) * place.columns).map(Math.abs))));
  const losses = effects && [...(state.row === ALL_ROWS ? effectsOfRow(place, effects, ALL_ROWS) : effects)];
  const at = numbers.at + (state.row === ALL_ROWS ? 0 : rowOf(place, state.row) * place.sources.length);
  return [
    ["rank by weight", rankOf(perSource, at)],
    ["rank by effect", losses ? rankOf(losses, at) : null],
  ];
}

function chooseRoute({ place, source }) {
  update({ place, source, pinned: true });
}
