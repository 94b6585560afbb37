// What one layer reads at each token: sources by tokens, for the place and the row that are chosen.

const READING = { least: 22, most: 44, head: 78 };
let readingGrid = null;
let reading = null; // {key, at(t, source's index, column), columns, limit}

/** The numbers of a block [tokens, rows, sources, columns] for one row, or for all rows together. */
function readerOf(place, block, columns, signedSum) {
  const values = withoutCut(place, block.whole());
  const [rows, sources] = [place.rows.length, place.sources.length];
  const row = state.row === ALL_ROWS ? -1 : rowOf(place, state.row);
  const number = (t, r, i, column) => values[((t * rows + r) * sources + i) * columns + column];
  if (row >= 0) return (t, i, column) => number(t, row, i, column);
  return (t, i, column) => {
    let sum = 0;
    for (let r = 0; r < rows; r++) {
      const value = number(t, r, i, column);
      sum += signedSum ? value : Math.abs(value) / rows;
    }
    return sum;
  };
}

/** Weights where they depend on the token, else each token's share of the effect; null where there is neither. */
function readingBlock(place) {
  return place.dependsOnTokens ? place.weights : place.effectsByToken;
}

/** Whether the chosen heads' route from the source of an index is cut. */
const isCutHere = (place, i) => cutPart(place, place.sources[i], state.row) === 1;

function currentReading() {
  const key = [dataVersion, state.model, state.minus, state.place, state.row].join("|");
  if (reading?.key === key) return reading;
  const place = currentPlace();
  const other = subtracted();
  const block = readingBlock(place);
  reading = { key, at: null, columns: place.dependsOnTokens ? place.columns : 1, limit: 0, difference: false };
  if (!block || (state.row !== ALL_ROWS && rowOf(place, state.row) < 0)) return reading;
  const own = readerOf(place, block, reading.columns, !place.dependsOnTokens);
  reading.at = own;
  const differ = place.dependsOnTokens ? weightsDiffer : effectsDiffer;
  const against = other && placeOf(other, place.place);
  if (against && !differ(currentModel(), other, 0) && against.dependsOnTokens === place.dependsOnTokens
    && readingBlock(against)) {
    const theirs = readerOf(against, readingBlock(against), reading.columns, !place.dependsOnTokens);
    reading.at = (t, i, column) => own(t, i, column) - theirs(t, i, column);
    reading.difference = true;
  }
  for (let t = 0; t < currentModel().tokens.length; t++) {
    for (let i = 0; i < place.sources.length; i++) {
      if (isCutHere(place, i)) continue;
      for (let column = 0; column < reading.columns; column++) {
        reading.limit = Math.max(reading.limit, Math.abs(reading.at(t, i, column)) || 0);
      }
    }
  }
  return reading;
}

/** The width of a cell: as much room as there is, within bounds; more where a cell is split. */
function readingCellWidth(room) {
  const least = READING.least * Math.max(1, reading.columns / 2);
  return inRange(Math.floor((room - 40) / currentModel().tokens.length), least, READING.most);
}

const readingSource = {
  layout() {
    const place = currentPlace();
    const names = place.sources.map((source) => sourceName(currentModel(), source));
    return {
      columns: currentModel().tokens.length,
      rows: place.sources.length,
      width: readingCellWidth(readingGrid.holder.clientWidth - gutterFor(names)),
      height: place.sources.length > 24 ? 12 : 19,
      gutter: gutterFor(names),
      head: READING.head,
      column: state.token,
      row: place.sources.indexOf(state.source),
    };
  },
  columnName: (t) => tokenName(currentModel(), t, 12),
  rowName(r) {
    const place = currentPlace();
    return (isCutHere(place, r) ? "cut: " : "") + sourceName(currentModel(), place.sources[r]);
  },
  paint(context, t, r, x, y, { width, height }) {
    if (isCutHere(currentPlace(), r)) return; // blank
    const { at, columns, limit } = reading;
    const part = (width - 1) / columns;
    for (let column = 0; column < columns; column++) {
      context.fillStyle = diverging(at(t, r, column), limit).fill;
      context.fillRect(x + column * part, y, part, height - 1);
    }
  },
  hover(event, cell) {
    const place = currentPlace();
    hover(cell ? { place: state.place, source: place.sources[cell.r] } : null);
    if (!cell) return hideTip();
    const values = Array.from({ length: reading.columns }, (_, column) => reading.at(cell.t, cell.r, column));
    const what = place.dependsOnTokens ? "weight" : "part of the effect, estimated";
    showTip(event, tokenName(currentModel(), cell.t), [
      ["position, id", `${cell.t}, ${currentModel().tokens[cell.t].id}`],
      ["layer", place.name],
      ["head", headOf(state.row)],
      ["source", sourceName(currentModel(), place.sources[cell.r])],
      [reading.difference ? `${what}, difference` : what,
        isCutHere(place, cell.r) ? "cut" : values.map(short).join(", ") + (place.dependsOnTokens ? "" : " nats")],
    ]);
  },
  pick({ t, r }) {
    chooseToken(t);
    chooseRoute({ place: state.place, source: currentPlace().sources[r] });
  },
};

function readingWords(place) {
  if (state.row !== ALL_ROWS && rowOf(place, state.row) < 0) return `${place.name} has no ${keyName(state.row)}.`;
  const each = "each source (down) at each token (across)";
  if (place.dependsOnTokens) return `Weights of ${place.name}, ${keyName(state.row)}: how much it reads of ${each}.`;
  const same = `${place.name} reads with the same weights at every token`;
  if (!place.effectsByToken) return `${same}. ${currentModel().effectsMissing ?? "Effects were not measured."}`;
  return `${same}; so what is shown, for ${keyName(state.row)}, is how much reading ${each} matters. The numbers are ` +
    "estimates, in nats: a cell is the part of the sentence's mean loss that arises where this token reads, and it " +
    "may show in the losses of later tokens. Whose loss changes is seen by cutting: the underlines of the sentence " +
    "then tell it.";
}

function drawReading() {
  const model = currentModel();
  if (!model.places.length) return;
  const place = currentPlace();
  options(byId("reading-place"), model.places.map(({ place: number, name }) => [number, name]), state.place);
  drawRowButtons(byId("reading-rows"), place.rows.map(rowKey));
  say(byId("reading-title"), place.dependsOnTokens ? "What one layer reads, token by token"
    : "Where one layer's reading matters, token by token");
  say(byId("reading-lead"), readingWords(place));
  const { at, limit } = currentReading();
  show(byId("reading-grid"), at !== null);
  show(byId("reading-scale"), at !== null);
  if (!at) return;
  readingGrid.draw();
  readingGrid.canvas.setAttribute("aria-label", `${readingWords(place)} From ${short(-limit)} to ${short(limit)}.`);
  const unit = place.dependsOnTokens ? {} : unitOfEffects(limit);
  drawScale(fitted(byId("reading-scale"), 340, 28), 4, 2, 260, limit, unit);
}

function startReading() {
  readingGrid = new TokenGrid(byId("reading-grid"), readingSource);
  byId("reading-place").addEventListener("change", (event) => update({ place: Number(event.target.value) }));
  drawings.push(drawReading);
}
