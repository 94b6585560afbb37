// A model's numbers: weights and effects of a place for a token or for the sentence, and for a row or for all rows.

const AT_ONCE = 400000; // a mean over so many numbers is taken at once, a longer one when the browser has time
const meanWeights = new WeakMap();
const awaitedMeans = [];
let meansTaken = 0;

const placeOf = (model, number) => model.places.find((place) => place.place === number) ?? null;
const rowOf = (place, key) => place.rows.findIndex((row) => rowKey(row) === key);
const ownInput = (place) => place.sources[place.sources.length - 1];
const sourceName = (model, source) => model.sourceNames[source] ?? `source ${source}`;

/** The rows that any place has, each as its key, in the order in which they first appear. */
function rowKeys(model) {
  return [...new Set(model.places.flatMap((place) => place.rows.map(rowKey)))];
}

/** The places of a model in the order of depth, and how many sources there are. */
function sourceCount(model) {
  return 1 + Math.max(0, ...model.places.map(ownInput));
}

function takeMean(place) {
  const [count] = place.weights.shape;
  const each = place.weights.size / count;
  const values = place.weights.slice(0, place.weights.size);
  const mean = new Float32Array(each);
  for (let t = 0, at = 0; t < count; t++) for (let i = 0; i < each; i++) mean[i] += values[at++];
  for (let i = 0; i < each; i++) mean[i] /= count;
  meanWeights.set(place, mean);
  meansTaken++;
}

function takeAwaitedMeans() {
  const started = performance.now();
  while (awaitedMeans.length && performance.now() - started < 40) takeMean(awaitedMeans.shift());
  if (awaitedMeans.length) setTimeout(takeAwaitedMeans, 0);
  schedule();
}

/** Weights [rows, sources, columns] of a place at token `t`, or their mean where that is null; null until taken. */
function weightsAt(place, t) {
  const each = place.rows.length * place.sources.length * place.columns;
  if (!place.dependsOnTokens) return place.weights.whole();
  if (t !== null) return place.weights.slice(t * each, each);
  if (!meanWeights.has(place)) {
    if (place.weights.size <= AT_ONCE) takeMean(place);
    else if (!awaitedMeans.includes(place)) {
      if (!awaitedMeans.length) setTimeout(takeAwaitedMeans, 0);
      awaitedMeans.push(place);
    }
  }
  return meanWeights.get(place) ?? null;
}

/** Effects [rows, sources] of a place: the share of token `t`, or the sentence's where that is null or not kept. */
function effectsAt(place, t) {
  if (t === null || !place.effectsByToken) return place.effects?.whole() ?? null;
  const each = place.rows.length * place.sources.length;
  return place.effectsByToken.slice(t * each, each);
}

/** One row out of `values` [rows, ...], or the mean of all rows' sizes; null where the place has no such row. */
function weightsOfRow(place, values, key) {
  if (!values) return null;
  const each = values.length / place.rows.length;
  if (key !== ALL_ROWS) {
    const row = rowOf(place, key);
    return row < 0 ? null : values.slice(row * each, (row + 1) * each);
  }
  const mean = new Float32Array(each);
  values.forEach((value, i) => { mean[i % each] += Math.abs(value) / place.rows.length; });
  return mean;
}

/** One row's effects, or the sum of all rows': what would be lost were the source cut out of all of them. */
function effectsOfRow(place, values, key) {
  if (!values || key !== ALL_ROWS) return weightsOfRow(place, values, key);
  const each = place.sources.length;
  const sum = new Float32Array(each);
  values.forEach((value, i) => { sum[i % each] += value; });
  return sum;
}

/** For each source, the mean over rows of its share of what is read, by absolute weight. */
function sharesAt(place, t) {
  const weights = weightsAt(place, t);
  if (!weights) return null;
  const each = place.sources.length * place.columns;
  const shares = new Float32Array(place.sources.length);
  for (let row = 0; row < place.rows.length; row++) {
    const values = weights.slice(row * each, (row + 1) * each).map((value) => Math.abs(value) || 0);
    const total = values.reduce((sum, value) => sum + value, 0) || 1;
    values.forEach((value, i) => { shares[Math.floor(i / place.columns)] += value / total / place.rows.length; });
  }
  return shares;
}

/** The routes of a place and source that were really cut, of one row or of all. */
function measuredRoutes(model, place, source, key) {
  const row = key === ALL_ROWS ? null : rowOf(place, key);
  return model.measured.filter(
    (route) => route.place === place.place && route.source === source && (row === null || route.row === row));
}
