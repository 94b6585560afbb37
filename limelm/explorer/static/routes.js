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
  const weightsIn = (each) => weightsOfRow(each, weightsAt(each, t), state.row);
  const against = other ? placeOf(other, place.place) : null;
  const own = effectsOf(currentModel(), place, t, state.row);
  const { estimates, measured } = against && !reasons.effects
    ? effectsMinus(own, effectsOf(other, against, t, state.row)) : own;
  const ofSentence = t === null;
  const cut = place.sources.map((source) => cutPart(place, source, state.row));
  return {
    place,
    weights: against && !reasons.weights
      ? withoutNumbers(minus(weightsIn(place), weightsIn(against)), cut) : weightsIn(place),
    effects: withoutNumbers(bestEffects({ estimates, measured }, ofSentence), cut),
    estimates,
    measured,
    ofSentence,
    cut,
  };
}

/** A place's values, as many for each source, with none (NaN) where the route is cut. */
function withoutNumbers(values, cut) {
  return values?.map((value, i) => (cut[Math.floor((i * cut.length) / values.length)] === 1 ? NaN : value)) ?? null;
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

/** The weights of a source (one for each column) and its effects, as chosen; null where they are not known. */
function numbersOf({ place, source }) {
  const entry = currentNumbers().byPlace.get(place);
  const at = entry ? entry.place.sources.indexOf(source) : -1;
  if (at < 0) return null;
  const { columns } = entry.place;
  return {
    weights: entry.weights ? [...entry.weights.slice(at * columns, (at + 1) * columns)] : null,
    estimate: entry.estimates ? entry.estimates[at] : null,
    measured: entry.measured[at],
    cut: entry.cut[at],
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

/** An effect in words; `marked` where numbers beside it are of one token and it is not. */
function effectInWords(loss, kl, marked) {
  const size = kl === null ? "" : ` (KL ${short(kl)})`;
  return `${signed(loss)} nats${size}${marked ? " (whole sentence)" : ""}`;
}

/** The heads of a route that are cut, where others are not. */
function cutHeads(place, source) {
  const rows = cutRows(place, source);
  return place.rows.filter((_, i) => rows[i]).map(rowName).join("; ");
}

/** What a route that is cut was before, in the untouched model: its weight, and its effect on the whole sentence. */
function factsBeforeCut({ place: number, source }) {
  const model = untouched.models[state.model];
  const place = placeOf(model, number);
  const at = place.sources.indexOf(source);
  const weights = weightsOfRow(place, weightsAt(place, scopeToken()), state.row);
  const { estimates, measured } = effectsOf(model, place, null, state.row);
  const estimate = estimates && `estimated ${signed(estimates[at])}`;
  const loss = measured[at] ? `measured ${signed(measured[at].loss)}${estimate ? ` (${estimate})` : ""}` : estimate;
  const mark = scopeToken() === null ? "" : ", whole sentence";
  return [
    ["this route", loss ? `cut; before: ${loss} nats${mark}` : "cut"],
    ["weight before", weights
      && [...weights.slice(at * place.columns, (at + 1) * place.columns)].map(short).join(", ")],
  ];
}

/** A route's place, row, weight and effects as pairs of a name and a value. */
function routeFacts(route) {
  const model = currentModel();
  const numbers = numbersOf(route);
  if (!numbers) return [["", "not read here"]];
  const { place } = numbers.entry;
  const where = [
    ["head", headOf(state.row)],
    ["source", `${sourceName(model, route.source)} (number ${route.source})`],
    ["at", scopeWords()],
  ];
  if (numbers.cut === 1) return [...where, ...factsBeforeCut(route)];
  const sum = state.row === ALL_ROWS && place.rows.length > 1;
  const noWeights = state.row === ALL_ROWS || rowOf(place, state.row) >= 0 ? "…" : "no such head here";
  const minusWord = subtracted() ? ", difference" : "";
  const { estimate, measured } = numbers;
  const ofToken = scopeToken() !== null;
  return [
    ...where,
    ["cut heads", numbers.cut > 0 ? cutHeads(place, route.source) : null],
    [`weight${sum ? ", mean size" : ""}${minusWord}`,
      numbers.weights ? numbers.weights.map(short).join(", ") : noWeights],
    [`effect, estimated${sum ? " (sum of heads)" : ""}${minusWord}`,
      estimate === null ? null : effectInWords(estimate, null, false)],
    [`effect, measured${minusWord}`, measured ? effectInWords(measured.loss, measured.kl, ofToken) : null],
  ];
}

/** Where a value stands among others by size, the largest first; those that are null do not count. */
function rankOf(values, at) {
  const sizes = values.filter((value) => value !== null).map(Math.abs);
  return `${ordinal(1 + sizes.filter((size) => size > Math.abs(values[at])).length)} of ${sizes.length}`;
}

/** For each row and source of a place, or each source where all rows are chosen, a number; null where it is cut. */
function uncutNumbers(place, valuesOf) {
  const keys = state.row === ALL_ROWS ? [ALL_ROWS] : place.rows.map(rowKey);
  return keys.flatMap((key) => {
    const values = valuesOf(key);
    return place.sources.map((source, i) => (cutPart(place, source, key) === 1 ? null : values[i]));
  });
}

/** A route's rank among all routes of its place: among the sources and rows, or the sources alone for all rows. */
function rankFacts(route) {
  const numbers = numbersOf(route);
  if (!numbers?.weights || subtracted() || numbers.cut === 1) return [];
  const { place, effects } = numbers.entry;
  const t = scopeToken();
  const all = weightsAt(place, t);
  const largestOfColumns = (key) => {
    const weights = weightsOfRow(place, all, key);
    return place.sources.map((_, i) => (
      Math.max(...weights.slice(i * place.columns, (i + 1) * place.columns).map(Math.abs))));
  };
  const at = numbers.at + (state.row === ALL_ROWS ? 0 : rowOf(place, state.row) * place.sources.length);
  const losses = effects && uncutNumbers(place, (key) => bestEffectsOf(currentModel(), place, t, key));
  return [
    ["rank by size of the weight", rankOf(uncutNumbers(place, largestOfColumns), at)],
    ["rank by size of the effect", losses ? rankOf(losses, at) : null],
  ];
}

function chooseRoute({ place, source }) {
  update({ place, source, pinned: true });
}
