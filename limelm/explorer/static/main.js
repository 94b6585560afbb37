// The start: read the data, take up what the address says, and draw.

/** Take up an address; a served page then reads the text and cuts the routes that it names. */
function takeAddress() {
  const { text, cuts, token, minus, ...rest } = fromAddress(location.hash);
  const isShown = !wanted && text === state.text && JSON.stringify(cuts) === JSON.stringify(state.cuts);
  if (data.live && !isShown) {
    byId("text").value = text;
    read(text, cuts, { token, minus }); // which only mean something once that is read
    update(rest);
  } else update({ token, minus, ...rest });
  revealToken();
}

function start() {
  data = withBlocks(JSON.parse(byId("data").textContent));
  byId("data").remove();
  untouched = data;
  state.text = data.text;
  state.token = firstToken(data.models[0]);
  byId("text").value = data.text;
  for (const begin of [startHead, startSentence, startMaps, startPanel, startReading, startLens, startFlow, startLive,
    startExports, startKeyboard]) begin();
  drawings.push(revealIfAsked, markBusy);
  takeAddress();
  addEventListener("hashchange", takeAddress);
  addEventListener("resize", schedule);
}

start();
