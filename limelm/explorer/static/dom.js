// Elements of the page; whatever comes from the data enters them as text, never as markup.

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function show(node, visibleNow) {
  node.hidden = !visibleNow;
}

/** Set a text only where it changes, so that screen readers are not told it again. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Buttons of which one is chosen; they are made anew only when the options change. */
function choice(holder, options, chosen, pick) {
  const signature = JSON.stringify(options);
  if (holder.dataset.options !== signature) {
    holder.dataset.options = signature;
    holder.replaceChildren(...options.map(({ value, label, title, group }) => {
      if (group !== undefined) return element("span", { class: "group" }, group);
      const button = element("button", { type: "button", "data-value": value }, label);
      if (title) button.title = title;
      button.addEventListener("click", () => pick(value));
      return button;
    }));
  }
  for (const button of holder.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.value === String(chosen)));
  }
}

/** A select's options; made anew only when they change. */
function options(select, entries, chosen) {
  const signature = JSON.stringify(entries);
  if (select.dataset.options !== signature) {
    select.dataset.options = signature;
    select.replaceChildren(...entries.map(([value, label]) => element("option", { value }, label)));
  }
  select.value = String(chosen);
}

/** A list of names and values; `facts` holds pairs, and a pair without a value is left out. */
function factList(facts) {
  const known = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** Show the tooltip near the pointer: a title, then pairs of a name and a value. */
function showTip(event, title, facts) {
  const tip = byId("tooltip");
  tip.replaceChildren(element("strong", {}, title), element("dl", {}, ...factList(facts)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  byId("tooltip").hidden = true;
}

/** Run a function at most once a frame, with the arguments of the last call. */
function eachFrame(run) {
  let waiting = null;
  return (...values) => {
    if (!waiting) requestAnimationFrame(() => { const last = waiting; waiting = null; run(...last); });
    waiting = values;
  };
}

/** Whether the page is at rest: nothing is being asked for, nor computed for what is shown. */
function markBusy() {
  document.body.dataset.busy = String(wanted !== null || awaitedMeans.length > 0);
}
