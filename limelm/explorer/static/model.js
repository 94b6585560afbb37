// A model's numbers: weights and effects of a place for a token or for the sentence, and for a row or for all rows.

const AT_ONCE = 400000; // a mean over so many numbers is taken at once, a longer one when the browser has time
const means = new WeakMap(); // of each place, over the tokens: its weights, and each source's share of what is read
const awaitedMeans = [];
let meansTaken = 0;

const placeOf = (model, number) => model.places.find((place) => place.place === number) ?? null;
const rowOf = (place, key) => place.rows.findIndex((row) => rowKey(row) === key);
const ownInput = (place) => place.sources[place.sources.length - 1];
/** The source that a place's layer makes: the one after what it is given, or what it reads of itself. */
const ownOutput = (model, place) => ownInput(place) + (model.ownSource === "made" ? 0 : 1);
/** The token that is looked at first: the last one that another follows. */
const firstToken = (model) => Math.max(0, model.tokens.length - 2);
const sourceName = (model, source) => model.sourceNames[source] ?? `source ${source}`;

/** The rows that any place has, each as its key, in the order in which they first appear. */
function rowKeys(model) {
  return [...new Set(model.places.flatMap((place) => place.rows.map(rowKey)))];
}

/** How many sources there are, up to the newest that a place reads. */
function sourceCount(model) {
  return 1 + Math.max(0, ...model.places.map(ownInput));
}

/** Add to `shares`, times `factor`, for each source the mean over rows of its share of what is read, by size. */
function addShares(place, weights, shares, factor) {
  const each = place.sources.length * place.columns;
  for (let start = 0; start < weights.length; start += each) {
    let total = 0;
    for (let i = start; i < start + each; i++) total += Math.abs(weights[i]) || 0;
    const part = factor / (total || 1) / place.rows.length;
    for (let i = 0; i < each; i++) {
      shares[Math.floor(i / place.columns)] += (Math.abs(weights[start + i]) || 0) * part;
    }
  }
}

function takeMean(place) {
  const [count] = place.weights.shape;
  const each = place.weights.size / count;
  const values = withoutCut(place, place.weights.slice(0, place.weights.size));
  const weights = new Float32Array(each);
  const shares = new Float32Array(place.sources.length);
  for (let t = 0; t < count; t++) {
    const own = values.subarray(t * each, (t + 1) * each);
    for (let i = 0; i < each; i++) weights[i] += own[i] / count;
    addShares(place, own, shares, 1 / count);
  }
  means.set(place, { weights, shares });
  meansTaken++;
}

function takeAwaitedMeans() {
  const started = performance.now();
  while (awaitedMeans.length && performance.now() - started < 40) takeMean(awaitedMeans.shift());
  if (awaitedMeans.length) setTimeout(takeAwaitedMeans, 0);
  schedule();
}

/** The means of a place's weights and shares over the tokens; null until they are taken. */
function meansOf(place) {
  if (!means.has(place)) {
    if (place.weights.size <= AT_ONCE) takeMean(place);
    else if (!awaitedMeans.includes(place)) {
      if (!awaitedMeans.length) setTimeout(takeAwaitedMeans, 0);
      awaitedMeans.push(place);
    }
  }
  return means.get(place) ?? null;
}

/** Weights [rows, sources, columns] of a place at token `t`, or their mean where that is null; null until taken. */
function weightsAt(place, t) {
  const each = place.rows.length * place.sources.length * place.columns;
  if (!place.dependsOnTokens) return withoutCut(place, place.weights.whole());
  if (t !== null) return withoutCut(place, place.weights.slice(t * each, each));
  return meansOf(place)?.weights ?? null;
}

/** Effects [rows, sources] of a place: the share of token `t`, or the sentence's where that is null. */
function effectsAt(place, t) {
  if (t === null) return place.effects?.whole() ?? null;
  const each = place.rows.length * place.sources.length;
  return place.effectsByToken?.slice(t * each, each) ?? null;
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

/** For each source its share of what is read at token `t`, or, where that is null, the mean; null until taken. */
function sharesAt(place, t) {
  if (t === null && place.dependsOnTokens) return meansOf(place)?.shares ?? null;
  const shares = new Float32Array(place.sources.length);
  addShares(place, weightsAt(place, t), shares, 1);
  return shares;
}
