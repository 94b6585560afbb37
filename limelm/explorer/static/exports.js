// What is shown, as files: JSON and CSV with plain numbers, PNG of the two maps.

const PICTURE = { margin: 16, line: 17, least: 414, titleFont: "bold 13px system-ui, sans-serif" };

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

/** A number as files hold it: null where it is not known. */
const finite = (value) => (Number.isFinite(value) ? value : null);

/** The model that is subtracted, by name; null where none is. */
function minusName() {
  return state.minus === "untouched" ? `${currentModel().label}, untouched` : subtracted()?.label ?? null;
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
      weight: finite(weights[i * place.columns + column]), effect: effects && finite(effects[i]),
      effectIs: origin({ effects, ...entry }, i), minus: minusName(),
    })))));
}

/** What the lens that is shown says at the selected token: of each representation its best next token. */
function shownLens(model) {
  const lens = model[state.lens];
  if (!lens) return null;
  const [ids, best, next] = [lens.ids, lens.probabilities, lens.nextProbabilities].map((block) => block.whole());
  return lens.names.map((name, r) => {
    const at = r * model.tokens.length + state.token;
    return { name, id: ids[at], probability: finite(best[at]), nextProbability: finite(next[at]) };
  });
}

/** What the model lost and predicted before routes were cut; null where none is. */
function untouchedNumbers() {
  if (data === untouched) return null;
  const { loss, predictions, vocabulary } = untouched.models[state.model];
  return { loss, meanLoss: meanOf(loss), predictions, vocabulary };
}

function shownJson() {
  const model = currentModel();
  const t = scopeToken();
  const before = untouchedNumbers();
  return JSON.stringify({
    format: 1,
    text: data.text,
    model: model.label,
    description: model.description,
    minus: minusName(),
    cuts: state.cuts,
    scope: state.scope,
    token: t,
    selectedToken: state.token,
    row: state.row,
    tokens: model.tokens,
    vocabulary: model.vocabulary,
    sourceNames: model.sourceNames,
    loss: model.loss,
    meanLoss: meanOf(model.loss),
    predictions: model.predictions,
    untouched: before,
    meanLossChange: before && meanOf(model.loss) !== null ? meanOf(model.loss) - before.meanLoss : null,
    lens: shownLens(model),
    measured: model.measured,
    effectError: model.effectError,
    places: model.places.map((place) => ({
      place: place.place, name: place.name, sources: place.sources, rows: place.rows,
      weights: nested(weightsAt(place, t), [place.rows.length, place.sources.length, place.columns]),
      estimates: nested(effectsAt(place, t), [place.rows.length, place.sources.length]),
    })),
    maps: shownRoutes(),
  }, null, 1);
}

const csvField = (value) => {
  const isFormula = typeof value === "string" && /^[=+\-@\t\r]/.test(value); // to a spreadsheet
  const text = value === null ? "" : `${isFormula ? "'" : ""}${value}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function shownCsv() {
  const names = ["place", "set", "head", "source", "column", "token", "weight", "effect", "effectIs", "minus"];
  const lines = shownRoutes().map((route) => names.map((name) => csvField(route[name])).join(","));
  return [names.join(","), ...lines].join("\n") + "\n";
}

/** A text as lines that are at most `width` wide in a context's font; a word that is wider is split. */
function wrapped(context, text, width) {
  const lines = [""];
  const fits = (line) => context.measureText(line).width <= width;
  for (const word of text.split(" ")) {
    const line = lines.at(-1) === "" ? word : `${lines.at(-1)} ${word}`;
    if (fits(line)) {
      lines[lines.length - 1] = line;
      continue;
    }
    if (lines.at(-1) !== "") lines.push("");
    for (const character of word) {
      if (!fits(lines.at(-1) + character)) lines.push("");
      lines[lines.length - 1] += character;
    }
  }
  return lines;
}

/** What a picture of the maps shows: the model, the sentence and the cuts. */
function pictureTitle() {
  const title = subtracted() ? byId("difference-note").textContent : currentModel().label;
  const cuts = state.cuts.length ? [`Cut: ${state.cuts.map(cutInWords).join("; ")}`] : [];
  return [title, shortened(visible(data.text).replaceAll("·", " "), 160), ...cuts].join(" · ");
}

function drawLines(context, lines, x, y) {
  lines.forEach((line, i) => context.fillText(line, x, y + i * PICTURE.line));
}

/** Both maps side by side, with their captions and scales. */
function shownPicture() {
  const { margin, line, least, titleFont } = PICTURE;
  const ratio = devicePixelRatio || 1;
  const parts = ["router", "effect"].map((name) => ({
    map: byId(`${name}-map`),
    scale: byId(`${name}-scale`),
    caption: [...byId(`${name}-caption`).parentElement.children].map((part) => part.textContent).join(": "),
  })).filter(({ map }) => map.offsetParent);
  const width = Math.max(least, ...parts.map(({ map }) => map.width / ratio));
  const whole = parts.length * (width + margin) + margin;
  const canvas = element("canvas");
  const measuring = canvas.getContext("2d");
  const linesOf = (text, font, room) => {
    measuring.font = font;
    return wrapped(measuring, text, room);
  };
  const title = linesOf(pictureTitle(), titleFont, whole - 2 * margin);
  const captions = parts.map(({ caption }) => linesOf(caption, LABEL_FONT, width));
  const captionsAt = margin + title.length * line + 6;
  const mapsAt = captionsAt + Math.max(...captions.map(({ length }) => length)) * line + 6;
  const scalesAt = mapsAt + parts[0].map.height / ratio + 8;
  const height = scalesAt + parts[0].scale.height / ratio + margin;
  const context = fitted(canvas, whole, height);
  context.fillStyle = canvasColors().card;
  context.fillRect(0, 0, whole, height);
  context.fillStyle = canvasColors().ink;
  context.textBaseline = "top";
  context.font = titleFont;
  drawLines(context, title, margin, margin);
  context.font = LABEL_FONT;
  parts.forEach(({ map, scale }, i) => {
    const x = margin + i * (width + margin);
    drawLines(context, captions[i], x, captionsAt);
    context.drawImage(map, x, mapsAt, map.width / ratio, map.height / ratio);
    context.drawImage(scale, x, scalesAt, scale.width / ratio, scale.height / ratio);
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
