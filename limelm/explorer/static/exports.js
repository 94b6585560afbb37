// What is shown, as files: JSON and CSV with plain numbers, PNG of the two maps.

function save(content, type, ending) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const name = currentModel().label.replace(/[^\w.-]+/g, "-").slice(0, 60);
  element("a", { href: address, download: `explorer-${name}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A flat list as nested arrays of the given lengths; numbers that are not known are null. */
function nested(values, lengths) {
  if (!values) return null;
  if (!lengths.length) return Number.isFinite(values[0]) ? values[0] : null;
  const each = values.length / lengths[0];
  const part = (_, i) => nested(values.subarray(i * each, (i + 1) * each), lengths.slice(1));
  return Array.from({ length: lengths[0] }, part);
}

/** The routes of the two maps, one for each column of a row. */
function shownRoutes() {
  const dot = state.row.lastIndexOf(".");
  const [set, head] = state.row === ALL_ROWS ? ["", "all"] : [state.row.slice(0, dot), state.row.slice(dot + 1)];
  const origin = (entry, i) => {
    if (entry.cut[i] === 1) return "cut";
    return entry.effects && (entry.ofSentence && entry.measured[i] ? "measured" : "estimated");
  };
  return currentNumbers().places.flatMap(({ place, weights, effects, ...entry }) => (
    !weights ? [] : place.sources.flatMap((source, i) => Array.from({ length: place.columns }, (_, column) => ({
      place: place.place, set, head, source, column, token: scopeToken(),
      weight: weights[i * place.columns + column], effect: effects && entry.cut[i] < 1 ? effects[i] : null,
      effectIs: origin({ effects, ...entry }, i),
    })))));
}

function shownJson() {
  const model = currentModel();
  const t = scopeToken();
  const other = subtracted();
  return JSON.stringify({
    format: 1,
    text: data.text,
    model: model.label,
    description: model.description,
    minus: other ? other.label : null,
    cuts: state.cuts,
    scope: state.scope,
    token: t,
    row: state.row,
    tokens: model.tokens,
    vocabulary: model.vocabulary,
    sourceNames: model.sourceNames,
    loss: model.loss,
    predictions: model.predictions,
    measured: model.measured,
    effectError: model.effectError,
    places: model.places.map((place) => ({
      place: place.place, name: place.name, sources: place.sources, rows: place.rows,
      weights: nested(weightsAt(place, t), [place.rows.length, place.sources.length, place.columns]),
      effects: nested(effectsAt(place, t), [place.rows.length, place.sources.length]),
    })),
    maps: shownRoutes(),
  }, null, 1);
}

const csvField = (value) => {
  const text = value === null ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function shownCsv() {
  const names = ["place", "set", "head", "source", "column", "token", "weight", "effect", "effectIs"];
  const lines = shownRoutes().map((route) => names.map((name) => csvField(route[name])).join(","));
  return [names.join(","), ...lines].join("\n") + "\n";
}

/** Both maps side by side, with their captions and scales. */
function shownPicture() {
  const parts = ["router", "effect"].map((name) => ({
    map: byId(`${name}-map`),
    scale: byId(`${name}-scale`),
    caption: [...byId(`${name}-caption`).parentElement.children].map((part) => part.textContent).join(": "),
  }));
  const ratio = devicePixelRatio || 1;
  const margin = 16;
  const width = Math.max(430, ...parts.map(({ map }) => map.width / ratio)) + margin;
  const height = parts[0].map.height / ratio + 110;
  const canvas = element("canvas");
  const context = fitted(canvas, 2 * width + margin, height);
  context.fillStyle = canvasColors().card;
  context.fillRect(0, 0, 2 * width + margin, height);
  context.fillStyle = canvasColors().ink;
  context.textBaseline = "top";
  context.font = "bold 14px system-ui, sans-serif";
  const title = subtracted() ? byId("difference-note").textContent : currentModel().label;
  context.fillText(shortened(`${title} · ${visible(data.text).replaceAll("·", " ")}`, 110), margin, 12);
  parts.filter(({ map }) => map.offsetParent).forEach(({ map, scale, caption }, i) => {
    const x = margin + i * width;
    context.font = LABEL_FONT;
    context.fillStyle = canvasColors().ink;
    context.fillText(caption, x, 38);
    context.drawImage(map, x, 58, map.width / ratio, map.height / ratio);
    context.drawImage(scale, x, 66 + map.height / ratio, scale.width / ratio, scale.height / ratio);
  });
  return canvas;
}

function startExports() {
  byId("save-json").addEventListener("click", () => save(shownJson(), "application/json", "json"));
  byId("save-csv").addEventListener("click", () => save(shownCsv(), "text/csv", "csv"));
  byId("save-png").addEventListener("click", () => {
    shownPicture().toBlob((picture) => save(picture, "image/png", "png"));
  });
  drawings.push(() => {
    for (const id of ["save-csv", "save-png"]) byId(id).disabled = !currentModel().places.length;
  });
}
