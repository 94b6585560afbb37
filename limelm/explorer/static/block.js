// Blocks: arrays of numbers that stand in the page as base64 and are decoded only when and where they are looked at.

const ITEM_BYTES = { float32: 4, float16: 2, int32: 4 };
const WHOLE_BLOCKS_KEPT = 24;
const wholeBlocks = new Map(); // the blocks decoded last, the oldest first
let halfPrecision = null;

/** The value of each of the 65,536 half-precision numbers, by its bits. */
function halfPrecisionValues() {
  if (halfPrecision) return halfPrecision;
  halfPrecision = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    let size = 2 ** (exponent - 15) * (1 + fraction / 1024);
    if (exponent === 0) size = 2 ** -14 * (fraction / 1024);
    if (exponent === 31) size = fraction ? NaN : Infinity;
    halfPrecision[bits] = bits & 0x8000 ? -size : size;
  }
  return halfPrecision;
}

/** The bytes from `start` to before `end` of what a base64 text holds; the rest of the text is not decoded. */
function bytesOf(text, start, end) {
  const group = Math.floor(start / 3);
  const part = text.slice(group * 4, Math.ceil(end / 3) * 4);
  const skipped = start - group * 3;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(part).slice(skipped, skipped + end - start);
  const binary = atob(part);
  const bytes = new Uint8Array(end - start);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(skipped + i);
  return bytes;
}

class Block {
  constructor({ shape, type, base64, element }) {
    this.shape = shape;
    this.type = type;
    this.size = shape.reduce((product, length) => product * length, 1);
    this.base64 = base64 ?? null;
    this.element = element ?? null;
  }

  /** `count` numbers from number `start` on, in C order. */
  slice(start, count) {
    const whole = wholeBlocks.get(this);
    if (whole) return whole.subarray(start, start + count);
    if (this.base64 === null) {
      const holder = document.getElementById(this.element);
      this.base64 = holder.textContent;
      holder.remove(); // the text is needed once
    }
    const width = ITEM_BYTES[this.type];
    const { buffer } = bytesOf(this.base64, start * width, (start + count) * width);
    if (this.type === "int32") return new Int32Array(buffer);
    if (this.type === "float32") return new Float32Array(buffer);
    const values = halfPrecisionValues();
    const halves = new Uint16Array(buffer);
    const numbers = new Float32Array(count);
    for (let i = 0; i < count; i++) numbers[i] = values[halves[i]]; // much faster than Float32Array.from
    return numbers;
  }

  /** All numbers; kept while the block is among those looked at last. */
  whole() {
    const values = wholeBlocks.get(this) ?? this.slice(0, this.size);
    wholeBlocks.delete(this);
    wholeBlocks.set(this, values);
    if (wholeBlocks.size > WHOLE_BLOCKS_KEPT) wholeBlocks.delete(wholeBlocks.keys().next().value);
    return values;
  }
}

/** Replace what describes a block by the block, everywhere in the data. */
function withBlocks(value) {
  if (Array.isArray(value)) return value.map(withBlocks);
  if (value === null || typeof value !== "object") return value;
  if ("shape" in value && "type" in value) return new Block(value);
  for (const key of Object.keys(value)) value[key] = withBlocks(value[key]);
  return value;
}
