// The logit lens: what the model's head would predict from each representation, by token.

const LENS = { width: 78, height: 20, head: 22 };
let lensGrid = null;

/** The lens that is shown and its numbers, with what is subtracted where that can be. */
function currentLens() {
  const lens = currentModel()[state.lens];
  if (!lens) return null;
  const other = subtracted();
  const against = other && !lensesDiffer(currentModel(), other, state.lens) ? other[state.lens] : null;
  const chances = ({ probabilities, nextProbabilities }) => (
    state.chance === "best" ? probabilities : nextProbabilities).whole();
  return {
    names: lens.names,
    ids: lens.ids.whole(),
    best: lens.probabilities.whole(),
    next: lens.nextProbabilities.whole(),
    shown: chances(lens),
    against: against && { model: other, ids: against.ids.whole(), shown: chances(against) },
  };
}

const lensSource = {
  layout() {
    const { names } = this.lens;
    return {
      columns: currentModel().tokens.length, rows: names.length, width: LENS.width, height: LENS.height,
      gutter: gutterFor(names), head: LENS.head, column: state.token, row: null,
    };
  },
  columnName: (t) => tokenName(currentModel(), t, 9),
  rowName(r) { return this.lens.names[r]; },
  paint(context, t, r, x, y) {
    const model = currentModel();
    const { ids, shown, against } = this.lens;
    const at = r * model.tokens.length + t;
    const { fill, ink } = against ? diverging(shown[at] - against.shown[at], 1) : sequential(shown[at]);
    context.fillStyle = fill;
    context.fillRect(x, y, LENS.width - 1, LENS.height - 1);
    const follows = ids[at] === model.tokens[t + 1]?.id;
    context.font = follows ? `bold ${CELL_FONT}` : CELL_FONT;
    context.fillStyle = ink;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(entryName(model, ids[at], 10), x + 4, y + LENS.height / 2);
    if (follows) context.fillRect(x, y, 2.5, LENS.height - 1);
  },
  hover(event, cell) {
    if (!cell) return hideTip();
    const model = currentModel();
    const { names, ids, best, next, shown, against } = this.lens;
    const at = cell.r * model.tokens.length + cell.t;
    const following = cell.t + 1 < model.tokens.length ? tokenName(model, cell.t + 1) : null;
    showTip(event, `${names[cell.r]} at ${tokenName(model, cell.t)}`, [
      ["position, id", `${cell.t}, ${model.tokens[cell.t].id}`],
      ["best next", `${entryName(model, ids[at])} (id ${ids[at]}), ${percent(best[at])}`],
      ["what follows", following && `${following}, ${percent(next[at])}`],
      ["other model", against && `${entryName(against.model, against.ids[at])}, ${percent(against.shown[at])}`],
      ["difference", against && `${signed(100 * (shown[at] - against.shown[at]))} points`],
    ]);
  },
  pick: ({ t }) => chooseToken(t),
};

function drawLens() {
  const model = currentModel();
  const lens = currentLens();
  show(byId("lens-grid"), lens !== null);
  show(byId("lens-scale"), lens !== null);
  show(byId("lens-tabs"), Boolean(model.sourceLens));
  show(byId("lens-chance").parentElement, lens !== null);
  if (!lens) {
    say(byId("lens-lead"), `There is no lens: ${model.lensMissing ?? "it was not measured"}.`);
    return;
  }
  choice(byId("lens-kind"), [{ value: "lens", label: "layers' states" }, { value: "sourceLens", label: "sources" }],
    state.lens, (kind) => update({ lens: kind }));
  choice(byId("lens-chance"), [{ value: "best", label: "chance of the best token" },
    { value: "next", label: "chance of the one that follows" }], state.chance, (chance) => update({ chance }));
  const of = state.lens === "lens" ? "what has been computed up to there" : "what one layer left, alone";
  say(byId("lens-lead"), `Each cell names the token that the model's head would predict next from ${of}. ` +
    "Bold with a bar: it is the one that does follow.");
  lensSource.lens = lens;
  lensGrid.draw();
  const size = `${lens.names.length} representations by ${model.tokens.length} tokens`;
  lensGrid.canvas.setAttribute("aria-label", `Logit lens, ${size}.`);
  const asText = (value) => tick(100 * value);
  const scale = lens.against ? { asText, unit: "points" } : { asText, unit: "%", hue: "sequential" };
  drawScale(fitted(byId("lens-scale"), 340, 28), 4, 2, 260, 1, scale);
}

function startLens() {
  lensGrid = new TokenGrid(byId("lens-grid"), lensSource);
  drawings.push(drawLens);
}
