// The sentence: a chip for each token, laid out by measured widths so that only the lines on screen are in the page.

const CHIP_FONT = '13px ui-monospace, "DejaVu Sans Mono", monospace';
const CHIP = { height: 32, gap: 4, most: 220, margin: 6 };
let revealAsked = false;
let chipLayout = null; // {key, chips: [{left, width, line}], limit, lines: [first token of each]}

function layOutChips(model, width) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = CHIP_FONT;
  const [one, digit] = [context.measureText("m").width, 5.6];
  const chips = [];
  const lines = [0];
  let left = 0;
  let afterLineEnd = false;
  model.tokens.forEach(({ text }, t) => {
    const shown = visible(text);
    const plain = /^[\x20-\x7e·↵→]*$/.test(shown);
    const textWidth = plain ? shown.length * one : context.measureText(shown).width;
    const number = isRepeated(model, t) ? String(t).length * digit + 2 : 0;
    const wide = Math.min(Math.ceil(textWidth + number) + 13, CHIP.most, width);
    if (left > 0 && (left + wide > width || afterLineEnd)) {
      lines.push(t);
      left = 0;
    }
    afterLineEnd = text.endsWith("\n");
    chips.push({ left, width: wide, line: lines.length - 1 });
    left += wide + CHIP.gap;
  });
  return { chips, lines };
}

/** By how much cutting routes changed the loss at a token; null where nothing is cut. */
function lossChange(t) {
  const [now, before] = [currentModel().loss[t], untouched.models[state.model].loss[t]];
  return data === untouched || now === null || before === null ? null : now - before;
}

/** The largest loss of the sentence, or the largest change of it while routes are cut. */
function lossLimit() {
  const { loss } = currentModel();
  const sizes = data === untouched ? loss : loss.map((_, t) => lossChange(t));
  return Math.max(1e-9, ...sizes.map((value) => Math.abs(value ?? 0)));
}

function chip(model, t, limit) {
  const token = model.tokens[t];
  const { left, width, line } = chipLayout.chips[t];
  const made = element("span", {
    class: token.special ? "chip special" : "chip", role: "option", id: `token-${t}`, "data-token": t,
    "aria-selected": String(t === state.token), "aria-label": tokenWords(model, t), "aria-posinset": t + 1,
    "aria-setsize": model.tokens.length,
  }, visible(token.text));
  if (isRepeated(model, t)) made.append(element("sub", {}, String(t)));
  Object.assign(made.style, { left: `${left}px`, top: `${line * CHIP.height}px`, width: `${width}px` });
  const loss = data === untouched ? model.loss[t] : lossChange(t);
  if (loss !== null) {
    made.style.setProperty("--loss", (data === untouched ? sequential(loss / limit) : diverging(loss, limit)).fill);
  }
  return made;
}

function drawChips() {
  const model = currentModel();
  const holder = byId("tokens");
  const key = `${dataVersion}|${state.model}|${holder.clientWidth}`;
  if (chipLayout?.key !== key) {
    chipLayout = { key, ...layOutChips(model, holder.clientWidth - CHIP.margin), limit: lossLimit() };
  }
  const { lines, limit } = chipLayout;
  holder.firstElementChild.style.height = `${lines.length * CHIP.height}px`;
  const first = Math.max(0, Math.floor(holder.scrollTop / CHIP.height) - 1);
  const last = Math.min(lines.length, Math.ceil((holder.scrollTop + holder.clientHeight) / CHIP.height) + 1);
  const end = last < lines.length ? lines[last] : model.tokens.length;
  const shown = [first, last, key, state.token, schemeName()].join("|");
  if (holder.dataset.shown === shown) return;
  holder.dataset.shown = shown;
  const made = [];
  for (let t = lines[first]; t < end; t++) made.push(chip(model, t, limit));
  holder.firstElementChild.replaceChildren(...made);
  if (byId(`token-${state.token}`)) holder.setAttribute("aria-activedescendant", `token-${state.token}`);
  else holder.removeAttribute("aria-activedescendant");
}

function drawSentence() {
  const model = currentModel();
  drawChips();
  const mean = meanOf(model.loss);
  const count = model.tokens.length;
  const losses = mean === null ? "" : ` Mean loss ${short(mean)} nats${state.cuts.length ? " with the cuts" : ""} ` +
    `(perplexity ${short(Math.exp(mean))}).`;
  say(byId("sentence-lead"), `${count.toLocaleString("en")} tokens.${losses} Choose one to look at it.`);
  show(byId("loss-scale"), mean !== null);
  const context = fitted(byId("loss-scale"), 340, 28);
  context.fillStyle = canvasColors().soft;
  context.font = LABEL_FONT;
  context.textAlign = "left";
  context.textBaseline = "top";
  const changed = data !== untouched;
  context.fillText(changed ? "change of loss" : "underline: loss", 0, 0);
  drawScale(context, 100, 1, 210, chipLayout.limit, { hue: changed ? "diverging" : "sequential", unit: "nats" });
}

/** Select a token and bring it on screen wherever tokens are shown. */
function chooseToken(token) {
  revealToken();
  update({ token: inRange(token, 0, currentModel().tokens.length - 1) });
}

/** Bring the selected token on screen once everything is drawn. */
function revealToken() {
  revealAsked = true;
  schedule();
}

function revealIfAsked() {
  if (!revealAsked) return;
  revealAsked = false;
  const holder = byId("tokens");
  const top = chipLayout.chips[state.token].line * CHIP.height;
  if (top < holder.scrollTop) holder.scrollTop = top;
  else if (top + CHIP.height > holder.scrollTop + holder.clientHeight) {
    holder.scrollTop = top + CHIP.height - holder.clientHeight;
  }
  readingGrid.reveal(state.token);
  lensGrid.reveal(state.token);
}

function tokenTip(event, t) {
  const model = currentModel();
  const best = model.predictions[t]?.[0];
  showTip(event, tokenName(model, t), [
    ["position", String(t)],
    ["id", String(model.tokens[t].id)],
    ["kind", model.tokens[t].special ? "special token" : null],
    ["loss of this token", lossWords(model, t)],
    ["expected next", best ? `${entryName(model, best.id)} (${percent(best.probability)})` : null],
    ["followed by", t + 1 < model.tokens.length
      ? `${tokenName(model, t + 1)}, loss of it ${lossWords(model, t + 1)}` : null],
  ]);
}

function startSentence() {
  const holder = byId("tokens");
  const tokenBelow = (event) => event.target.closest("[data-token]")?.dataset.token;
  holder.addEventListener("click", (event) => {
    const token = tokenBelow(event);
    if (token !== undefined) chooseToken(Number(token));
  });
  holder.addEventListener("pointermove", (event) => {
    const token = tokenBelow(event);
    if (token === undefined) hideTip();
    else tokenTip(event, Number(token));
  });
  holder.addEventListener("pointerleave", hideTip);
  holder.addEventListener("scroll", eachFrame(() => { hideTip(); drawChips(); }), { passive: true });
  drawings.push(drawSentence);
}
