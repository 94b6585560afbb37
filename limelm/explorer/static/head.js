// The head: which model is shown, and from which another one is subtracted.

function drawHead() {
  const model = currentModel();
  const steps = data.kind === "steps";
  say(byId("about"), [model.label, model.description].filter(Boolean).join(" · "));
  document.title = `limelm explorer: ${model.label}`;
  show(byId("model-tabs"), !steps && data.models.length > 1);
  show(byId("step-field"), steps && data.models.length > 1);
  if (steps) {
    byId("step").max = data.models.length - 1;
    byId("step").value = state.model;
    say(byId("step-name"), model.step === null ? model.label : model.step.toLocaleString("en"));
  } else {
    choice(byId("models"), data.models.map(({ label, description }, value) => ({ value, label, title: description })),
      state.model, chooseModel);
  }
  drawMinus();
}

function drawMinus() {
  const others = data.models.map(({ label }, number) => [number, label]).filter(([number]) => number !== state.model);
  const entries = [["", "nothing"], ...(data === untouched ? [] : [["untouched", "itself, untouched"]]), ...others];
  show(byId("minus-field"), entries.length > 1);
  options(byId("minus"), entries, state.minus ?? "");
  say(byId("difference-note"), differenceWords());
  show(byId("difference-note"), subtracted() !== null);
}

/** What is subtracted from what, and what cannot be; an empty text where nothing is. */
function differenceWords() {
  const [model, other] = [currentModel(), subtracted()];
  if (!other) return "";
  const routeReasons = model.places.length ? currentNumbers().reasons : {};
  const reasons = { ...routeReasons, lens: lensesDiffer(model, other, state.lens) };
  const missing = Object.entries(reasons).filter(([, reason]) => reason)
    .map(([what, reason]) => `; no difference of the ${what}, as ${reason}`).join("");
  const name = state.minus === "untouched" ? "the untouched model" : other.label;
  return `Shown: ${model.label} minus ${name}, in the maps and the lens${missing}. ` +
    `Sentence, predictions and flow are those of ${model.label}.`;
}

/** Choose a model; the selected token stays where it is, as far as the other model has as many. */
function chooseModel(model) {
  update({ model });
}

function startHead() {
  byId("step").addEventListener("input", () => chooseModel(Number(byId("step").value)));
  byId("minus").addEventListener("change", () => {
    const chosen = byId("minus").value;
    update({ minus: chosen === "" || chosen === "untouched" ? chosen || null : Number(chosen) });
  });
  drawings.push(drawHead);
}
