"use strict";
// The table of routes: search, filters, sorting, pages. The view is kept in the URL's fragment, so that it can be linked.
(() => {
  const { models, routes } = JSON.parse(document.getElementById("routes").textContent);
  const browser = document.getElementById("browser");
  const form = browser.querySelector("form");
  const fields = form.elements;
  const found = document.getElementById("routes-found");
  const page = document.getElementById("routes-page");
  const body = browser.querySelector("tbody");
  const [previous, next] = browser.querySelectorAll(".pages button");

  const PER_PAGE = 25;
  const SPACE = "␣";
  const COLUMNS = [
    { key: "model", header: "model", show: (route) => models[route.model] },
    { key: "layer", header: "L", title: "layer that reads", show: (route) => route.layer },
    { key: "source", header: "R", title: "representation that is read", show: (route) => route.source },
    { key: "head", header: "H", title: "head", show: (route) => route.head },
    { key: "usage", header: "usage", show: (route) => digits(route.usage, 3), descending: true },
    { key: "coherence", header: "coherence", show: (route) => digits(route.coherence, 3), descending: true },
    { key: "percentile", header: "percentile", show: (route) => digits(route.percentile, 0), descending: true },
    { key: "matched", header: "matched", title: "percentile among random routes to equally frequent tokens", show: (route) => digits(route.matched, 0), descending: true },
    { key: "clear", header: "above 95", title: "in both percentiles, or in the first alone", show: (route) => route.clear },
  ].filter((column) => column.key !== "model" || models.length > 1);
  const SORTED_FIRST = { sort: "usage", order: "descending" };

  const view = { ...SORTED_FIRST, page: 0 };
  let rows = [];

  // ---- small things

  const digits = (number, count) => (number === null ? "" : number.toFixed(count));
  const low = (text) => text.toLowerCase();
  const bare = (token) => low(token).replace(/^[␣Ġ▁]+/, "");

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- what is shown

  function query() {
    const text = low(fields.search.value.replaceAll(" ", SPACE));
    if (!text) return () => false;
    return fields.whole.checked ? (token) => bare(token) === bare(text) : (token) => low(token).includes(text);
  }

  function matching() {
    const is = (name, value) => fields[name].value === "" || fields[name].value === String(value);
    const hit = query();
    return routes.filter(
      (route) =>
        is("model", models[route.model]) &&
        is("layer", route.layer) &&
        is("source", route.source) &&
        is("usage", route.bin) &&
        !(fields.others.checked && route.own) &&
        (!fields.search.value ||
          route.tokens.some(([token]) => hit(token)) ||
          route.examples.some(([, token]) => hit(token))),
    );
  }

  function sorted(chosen) {
    const sign = view.order === "descending" ? -1 : 1;
    const value = (route) => route[view.sort] ?? -Infinity;
    return chosen.sort((a, b) => sign * (value(a) - value(b)) || b.usage - a.usage);
  }

  function show() {
    rows = sorted(matching());
    const pages = Math.max(1, Math.ceil(rows.length / PER_PAGE));
    view.page = Math.min(view.page, pages - 1);
    const start = view.page * PER_PAGE;
    const hit = query();
    body.replaceChildren(...rows.slice(start, start + PER_PAGE).flatMap((route, place) => rowsOf(route, start + place, hit)));
    found.textContent =
      `${rows.length.toLocaleString("en")} of ${routes.length.toLocaleString("en")} routes` +
      (rows.length ? "" : ": clear a filter, or search for a part of the token");
    page.textContent = `page ${view.page + 1} of ${pages}`;
    previous.disabled = view.page === 0;
    next.disabled = view.page === pages - 1;
    for (const header of browser.querySelectorAll("th[data-key]")) {
      header.setAttribute("aria-sort", header.dataset.key === view.sort ? view.order : "none");
    }
  }

  // ---- a route: its row, and what it opens to

  function marked(token, hit) {
    if (!hit(token)) return [token];
    const text = fields.whole.checked ? token : fields.search.value.replaceAll(" ", SPACE);
    const at = low(token).indexOf(low(text));
    if (at < 0) return [token];
    const end = at + text.length;
    return [token.slice(0, at), element("mark", {}, token.slice(at, end)), token.slice(end)];
  }

  const chip = (token, hit) => element("bdi", { class: "token" }, ...marked(token, hit));

  function rowsOf(route, place, hit) {
    const details = element("tr", { class: "details", id: `route-${place}`, hidden: "" });
    const button = element(
      "button",
      {
        type: "button",
        class: "open",
        "aria-expanded": "false",
        "aria-controls": details.id,
        "aria-label": `Layer ${route.layer}, representation ${route.source}, head ${route.head}: examples and control`,
      },
      "▸",
    );
    button.addEventListener("click", () => {
      const open = details.hidden;
      if (open && !details.firstChild) details.append(opened(route, hit));
      details.hidden = !open;
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "▾" : "▸";
    });
    const tokens = route.tokens.flatMap(([token]) => [chip(token, hit), " "]);
    if (fields.search.value && !route.tokens.some(([token]) => hit(token))) {
      tokens.push(element("span", { class: "hint" }, "found in its examples"));
    }
    const cells = COLUMNS.map((column) => element("td", { class: column.key }, String(column.show(route))));
    if (route.own) cells.find((cell) => cell.className === "source").append(element("span", { class: "hint" }, " own"));
    return [element("tr", {}, element("td", {}, button), ...cells, element("td", { class: "text" }, ...tokens)), details];
  }

  function opened(route, hit) {
    const columns = element(
      "div",
      { class: "columns" },
      tokenTable("Tokens that open it", route.tokens, route.coherence, hit),
      tokenTable("A random route's", route.control, route.controlCoherence, () => false),
    );
    const heading = element("h4", {}, "Where it is open widest in the data");
    const examples = route.examples.map(([before, token, after, weight]) =>
      element(
        "li",
        {},
        element("span", { class: "weight" }, digits(weight, 2)),
        element("bdi", {}, before, element("b", { class: "token" }, ...marked(token, hit)), after),
      ),
    );
    const list = examples.length ? element("ol", {}, ...examples) : element("p", { class: "note" }, "None was kept.");
    return element("td", { colspan: COLUMNS.length + 2 }, element("div", { class: "opened" }, columns, heading, list));
  }

  function tokenTable(title, tokens, coherence, hit) {
    const weighted = tokens.some(([, , weight]) => weight !== null);
    const titles = ["token", "logit", ...(weighted ? ["weight"] : [])];
    const lines = tokens.map(([token, logit, weight]) =>
      element(
        "tr",
        {},
        element("td", {}, chip(token, hit)),
        element("td", {}, digits(logit, 2)),
        ...(weighted ? [element("td", {}, digits(weight, 2))] : []),
      ),
    );
    return element(
      "table",
      {},
      element("caption", {}, `${title} (coherence ${digits(coherence, 3)})`),
      element("thead", {}, element("tr", {}, ...titles.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...lines),
    );
  }

  // ---- the URL's fragment

  const NAMES = ["search", "model", "layer", "source", "usage"];
  const CHECKS = ["whole", "others"];

  function write() {
    const state = new URLSearchParams();
    for (const name of NAMES) if (fields[name].value) state.set(name, fields[name].value);
    for (const name of CHECKS) if (fields[name].checked) state.set(name, "1");
    for (const name of Object.keys(SORTED_FIRST)) if (view[name] !== SORTED_FIRST[name]) state.set(name, view[name]);
    if (view.page) state.set("page", String(view.page + 1));
    const text = state.toString();
    history.replaceState(null, "", text ? `#${text}` : "#circuits");
  }

  function read() {
    const fragment = location.hash.slice(1);
    if (!fragment.includes("=")) return false;
    const state = new URLSearchParams(fragment);
    for (const name of NAMES) fields[name].value = state.get(name) ?? "";
    for (const name of CHECKS) fields[name].checked = state.has(name);
    for (const field of form.querySelectorAll("select")) if (field.selectedIndex < 0) field.value = "";
    const sort = state.get("sort");
    view.sort = COLUMNS.some((column) => column.key === sort) ? sort : SORTED_FIRST.sort;
    view.order = state.get("order") === "ascending" ? "ascending" : "descending";
    view.page = Math.max(0, (Number.parseInt(state.get("page"), 10) || 1) - 1);
    return true;
  }

  // ---- setting up

  function fill(name, values) {
    for (const value of values) fields[name].append(element("option", { value }, String(value)));
  }

  const distinct = (key) => [...new Set(routes.map((route) => route[key]))].sort((a, b) => (a > b ? 1 : a < b ? -1 : 0));
  fill("model", models);
  fill("layer", distinct("layer"));
  fill("source", distinct("source"));
  fill("usage", distinct("bin"));
  if (models.length < 2) browser.querySelector("[data-for=model]").hidden = true;

  function header(column) {
    const button = element("button", { type: "button" }, column.header);
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => {
      const first = column.descending ? "descending" : "ascending";
      const other = column.descending ? "ascending" : "descending";
      view.order = view.sort === column.key && view.order === first ? other : first;
      view.sort = column.key;
      update();
    });
    return element("th", { scope: "col", class: column.key, "data-key": column.key }, button);
  }

  function update() {
    view.page = 0;
    show();
    write();
  }

  function turn(step) {
    view.page += step;
    show();
    write();
    browser.querySelector(".scroll").scrollIntoView({ block: "nearest" });
  }

  browser
    .querySelector("thead tr")
    .append(
      element("th", { scope: "col" }, element("span", { class: "unseen" }, "open")),
      ...COLUMNS.map(header),
      element("th", { scope: "col", class: "text" }, "tokens that open it"),
    );
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    Object.assign(view, SORTED_FIRST);
    setTimeout(update); // the fields are cleared after this event
  });
  for (const button of [previous, next]) button.addEventListener("click", () => turn(Number(button.dataset.step)));
  window.addEventListener("hashchange", () => read() && show());

  document.getElementById("first-routes").remove();
  browser.hidden = false;
  const linked = read();
  show();
  if (linked) browser.scrollIntoView();
})();
