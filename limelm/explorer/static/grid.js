// Grids of cells on canvases: sharp at any pixel ratio, and windowed where there are thousands of tokens.

const LABEL_FONT = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
const CELL_FONT = '11px ui-monospace, "DejaVu Sans Mono", monospace';

const LEVEL_LABELS = 60; // columns as wide as this have level labels, narrower ones slanted
const LABEL_ROOM = 40; // right of the last column, whose slanted label leans over it

/** Give a canvas its size in the page's pixels and return its context, cleared, in the same pixels. */
function fitted(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Draw a text that rises to the right from the middle of a column's head. */
function drawSlanted(context, text, x, y) {
  context.save();
  context.translate(x, y);
  context.rotate(-Math.PI / 3.4);
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, 0, 0);
  context.restore();
}

/** Of labels `size` pixels apart, show one in so many. */
const labelStep = (size) => Math.ceil(12 / size);

/** Whether label `i` of labels `size` pixels apart is shown; the chosen one is, and none that would touch it. */
function labelIsShown(i, size, chosen) {
  const step = labelStep(size);
  return i === chosen || (i % step === 0 && Math.abs(i - chosen) >= step);
}

/** The width that row labels need. */
function gutterFor(names, least = 30, most = 130) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = LABEL_FONT;
  const widest = names.reduce((width, name) => Math.max(width, context.measureText(shortened(name, 18)).width), 0);
  return inRange(Math.ceil(widest) + 14, least, most);
}

function outline(context, x, y, width, height, color, thickness = 2) {
  context.strokeStyle = color;
  context.lineWidth = thickness;
  context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
}

/**
 * Rows by tokens in a frame that scrolls both ways. The canvas is as large as the frame and stays in place;
 * only the cells below it are drawn.
 */
class TokenGrid {
  /** `source` has layout, columnName(t), rowName(r), paint(context, t, r, x, y, shape), hover(event, cell) and pick. */
  constructor(holder, source) {
    this.holder = holder;
    this.source = source;
    this.canvas = holder.querySelector("canvas");
    this.inner = this.canvas.parentElement;
    this.shape = null; // the layout as last drawn
    holder.addEventListener("scroll", eachFrame(() => { hideTip(); this.draw(); }), { passive: true });
    const tell = eachFrame((event) => this.source.hover(event, this.cellAt(event)));
    this.canvas.addEventListener("pointermove", tell);
    this.canvas.addEventListener("pointerleave", (event) => { tell(event); hideTip(); });
    this.canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) this.source.pick(cell);
    });
  }

  /** The cell {t, r} below the pointer, or null. */
  cellAt(event) {
    if (event.type === "pointerleave" || !this.shape) return null;
    const { left, top } = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const { columns, rows, width, height, gutter, head } = this.shape;
    if (x < gutter || y < head) return null;
    const t = Math.floor((x - gutter + this.holder.scrollLeft) / width);
    const r = Math.floor((y - head + this.holder.scrollTop) / height);
    return t < columns && r < rows ? { t, r } : null;
  }

  /** Scroll so that a column is seen. */
  reveal(t) {
    if (!this.shape) return;
    const { width, gutter } = this.shape;
    const { scrollLeft, clientWidth } = this.holder;
    const seen = clientWidth - gutter;
    if (t * width < scrollLeft) this.holder.scrollLeft = t * width;
    else if ((t + 1) * width > scrollLeft + seen) this.holder.scrollLeft = (t + 1) * width - seen + LABEL_ROOM;
  }

  draw() {
    this.shape = this.source.layout();
    const { columns, rows, width, height, gutter, head, column, row } = this.shape;
    const [fullWidth, fullHeight] = [gutter + columns * width + LABEL_ROOM, head + rows * height + 2];
    this.inner.style.width = `${fullWidth}px`;
    this.inner.style.height = `${fullHeight}px`;
    const seenWidth = Math.min(this.holder.clientWidth, fullWidth);
    const seenHeight = Math.min(this.holder.clientHeight, fullHeight);
    const context = fitted(this.canvas, seenWidth, seenHeight);
    Object.assign(this.canvas.dataset, { gutter, head, width, height });
    const { scrollLeft, scrollTop } = this.holder;
    const firstColumn = Math.floor(scrollLeft / width);
    const lastColumn = Math.min(columns, Math.ceil((scrollLeft + seenWidth - gutter) / width));
    const firstRow = Math.floor(scrollTop / height);
    const lastRow = Math.min(rows, Math.ceil((scrollTop + seenHeight - head) / height));
    context.save();
    context.beginPath();
    context.rect(gutter, head, seenWidth - gutter, seenHeight - head);
    context.clip();
    for (let r = firstRow; r < lastRow; r++) {
      for (let t = firstColumn; t < lastColumn; t++) {
        this.source.paint(context, t, r, gutter + t * width - scrollLeft, head + r * height - scrollTop, this.shape);
      }
    }
    const { ink, accent } = canvasColors();
    outline(context, gutter + column * width - scrollLeft, head - 2, width, rows * height + 4 - scrollTop, accent, 1.5);
    if (row !== null) {
      outline(context, gutter + column * width - scrollLeft, head + row * height - scrollTop, width, height, ink);
    }
    context.restore();
    this.drawLabels(context, { firstColumn, lastColumn, firstRow, lastRow, seenWidth, scrollLeft, scrollTop });
  }

  drawLabels(context, { firstColumn, lastColumn, firstRow, lastRow, seenWidth, scrollLeft, scrollTop }) {
    const { width, height, gutter, head, column, row } = this.shape;
    const { ink, soft } = canvasColors();
    context.save();
    context.beginPath();
    context.rect(gutter - 6, 0, seenWidth - gutter + 6, head);
    context.clip();
    context.textAlign = "left";
    context.textBaseline = "middle";
    for (let t = firstColumn; t < lastColumn; t++) {
      context.font = t === column ? `bold ${LABEL_FONT}` : LABEL_FONT;
      context.fillStyle = t === column ? ink : soft;
      const left = gutter + t * width - scrollLeft;
      if (width < LEVEL_LABELS) drawSlanted(context, this.source.columnName(t), left + width / 2, head - 7);
      else context.fillText(this.source.columnName(t), left + 4, head - 10);
    }
    context.restore();
    context.save();
    context.beginPath();
    context.rect(0, head - 4, gutter, this.canvas.clientHeight - head + 4);
    context.clip();
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let r = firstRow; r < lastRow; r++) {
      if (!labelIsShown(r, height, row ?? -Infinity)) continue;
      context.font = r === row ? `bold ${LABEL_FONT}` : LABEL_FONT;
      context.fillStyle = r === row ? ink : soft;
      const middle = head + (r + 0.5) * height - scrollTop;
      context.fillText(shortened(this.source.rowName(r), 18), gutter - 5, middle, gutter - 6);
    }
    context.restore();
  }
}
