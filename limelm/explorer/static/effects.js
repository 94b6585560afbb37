// Effects of routes: estimated for all of them, measured for some; and which routes are cut.

const measuredByRoute = new WeakMap(); // of each model: what was measured, by the route's text

/** What cutting one row of a route really did, or all its rows together where `row` is null; null if not tried. */
function measuredAt(model, place, row, source) {
  if (!measuredByRoute.has(model)) {
    measuredByRoute.set(model, new Map(model.measured.map((route) => [cutText(route), route])));
  }
  const of = (each) => measuredByRoute.get(model).get(cutText({ place: place.place, row: each, source })) ?? null;
  return of(row) ?? (place.rows.length === 1 ? of(row === null ? 0 : null) : null);
}

/** The effects of a place's sources for one row or for all rows together: estimates, and what was measured. */
function effectsOf(model, place, t, key) {
  const row = key === ALL_ROWS ? null : rowOf(place, key);
  return {
    estimates: effectsOfRow(place, effectsAt(place, t), key),
    measured: place.sources.map((source) => (row === -1 ? null : measuredAt(model, place, row, source))),
  };
}

/** Effects of one model minus those of another; measured minus measured where both were measured. */
function effectsMinus(one, other) {
  return {
    estimates: minus(one.estimates, other.estimates),
    measured: one.measured.map((own, i) => (
      own && other.measured[i] ? { loss: own.loss - other.measured[i].loss, kl: null } : null)),
  };
}

/** One number for each source: the measured effect of the whole sentence where there is one, else the estimate. */
function bestEffects({ estimates, measured }, ofSentence) {
  if (!estimates || !ofSentence) return estimates;
  return estimates.map((estimate, i) => measured[i]?.loss ?? estimate);
}

/** The best known effects of a place's sources, for one row or for all rows together. */
const bestEffectsOf = (model, place, t, key) => bestEffects(effectsOf(model, place, t, key), t === null);

/** Note at each place which of its routes were cut when its numbers were taken. */
function noteCuts(models, cuts) {
  for (const { places } of models) {
    for (const place of places) place.cuts = cuts.filter((cut) => cut.place === place.place);
  }
}

/** For each row of a place whether its route to a source is cut. */
function cutRows(place, source) {
  const cuts = (place.cuts ?? []).filter((cut) => cut.source === source);
  return place.rows.map((_, row) => cuts.some((cut) => cut.row === null || cut.row === row));
}

/** Which part of the chosen rows of a route is cut: 0 for none, 1 for all. */
function cutPart(place, source, key) {
  const rows = cutRows(place, source);
  if (key !== ALL_ROWS) return Number(rows[rowOf(place, key)] ?? false);
  return rows.filter(Boolean).length / rows.length;
}

/** Weights [..., rows, sources, columns] as the model uses them: zero where the route is cut. */
function withoutCut(place, weights) {
  if (!place.cuts?.length) return weights;
  const each = place.rows.length * place.sources.length * place.columns;
  const used = new Float32Array(each).fill(1);
  place.sources.forEach((source, i) => cutRows(place, source).forEach((isCut, row) => {
    const start = (row * place.sources.length + i) * place.columns;
    if (isCut) used.fill(0, start, start + place.columns);
  }));
  return weights.map((value, at) => (used[at % each] ? value : 0));
}
