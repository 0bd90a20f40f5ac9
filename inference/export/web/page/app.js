// The page of `export.py format=web`: it decodes images as predict.py does, runs the network in the browser and shows the answers.
"use strict";

const MOST_SHOWN = 100; // predictions on the page; predictions.csv has all of them
const MOST_CLASSES = 5; // of the probabilities of an image
const THUMBNAIL = 208; // pixels, the longer side
const STRIP = 256; // rows that are read from an image at a time, a multiple of 8
const SMALLEST_DRAFT = 512; // see `draftScale`
const MOST_PIXELS = 200e6; // as in predict.py
const WIDEST = 32767; // pixels that all browsers draw; wider canvases stay empty without an error
const $ = (id) => document.getElementById(id);

let model; // model.json: classes, image_size, decision, ...
let session; // onnxruntime's, which runs the network
let rows = []; // of predictions.csv
let stopped = false;
let clears = 0; // how often everything was cleared, including images that were waiting
let working = Promise.resolve(); // images are labeled one by one, in the order in which they came

/** An error whose message is for the reader. */
class Problem extends Error {}

// ---- The network

/** Return the body of a file of this server, read by `read`: a method of Response. */
async function fetchFile(name, read) {
  let response;
  try {
    response = await fetch(name);
  } catch {
    throw new Problem(`${name} cannot be loaded: the server is not reached. Reload the page once it is.`);
  }
  if (!response.ok) {
    throw new Problem(
      `${name} is missing on this server (status ${response.status}). Upload the whole folder that export.py wrote.`,
    );
  }
  try {
    return await response[read]();
  } catch {
    throw new Problem(
      `${name} cannot be read: the connection broke, or this server has another file of that name. Reload the page, or upload ` +
        "the whole folder that export.py wrote again.",
    );
  }
}

/** Load the network's description, its runtime, and the network itself, checked by its hash. */
async function load() {
  if (location.protocol === "file:") {
    throw new Problem(
      "Browsers do not let a page that is opened as a file load its network. Serve the folder, for example with " +
        "python -m http.server --directory FOLDER, and open http://localhost:8000/.",
    );
  }
  if (typeof WebAssembly === "undefined") throw new Problem("This browser has no WebAssembly, which runs the network.");
  model = await fetchFile("model.json", "json");
  const [wasm, network] = await Promise.all(["ort.wasm", "model.onnx"].map((name) => fetchFile(name, "arrayBuffer")));
  let right = network.byteLength === model.bytes;
  if (right && crypto.subtle) {
    // missing on http:// pages of other machines
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", network));
    right = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") === model.sha256;
  }
  if (!right) {
    throw new Problem(
      "model.onnx is not the network that export.py verified: it is damaged, or from another export. Upload the folder again.",
    );
  }
  let ort;
  try {
    ort = await import("./ort.js");
  } catch {
    throw new Problem("ort.js, which runs the network, is missing on this server or damaged. Upload the whole folder again.");
  }
  try {
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // more threads need headers that a static host does not send
    session = await ort.InferenceSession.create(network);
  } catch (error) {
    throw new Problem(`This browser cannot run the network (${error.message}). ort.wasm may be damaged, or the browser too old.`);
  }
  session.tensor = (pixels, width, height) => new ort.Tensor("uint8", pixels, [1, height, width, 3]);
}

/** Return the probabilities of all classes for RGB pixels and, if the network gives maps, a function `heatOf(class)`. */
async function predict({ pixels, width, height }) {
  const input = { [session.inputNames[0]]: session.tensor(pixels, width, height) };
  const outputs = await session.run(input);
  const probabilities = Array.from(outputs[session.outputNames[0]].data);
  if (!model.maps) return { probabilities };
  const { data, dims } = outputs[model.maps.output];
  const [rows, columns] = dims.slice(2);
  const heatOf = (k) => ({ values: data.slice(k * rows * columns, (k + 1) * rows * columns), rows, columns });
  return { probabilities, heatOf };
}

// ---- Decoding

/** Return upright RGB pixels of a file as predict.py decodes it: alpha over white, no color management, its EXIF applied. */
async function decode(file) {
  if (!file.size) throw new Problem("the file is empty");
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const isPng = head[0] === 0x89 && head[1] === 0x50 && head[2] === 0x4e && head[3] === 0x47;
  const isJpeg = head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff;
  const isWebp = String.fromCharCode(...head.slice(8, 12)) === "WEBP";
  if (isPng && head[24] === 16 && model.deep) {
    throw new Problem("it has 16 bits per channel, of which browsers show 8; use predict.py");
  }
  if (isWebp && (await orientationOfWebp(file)) > 1) {
    throw new Problem("it is turned by its EXIF, which browsers do not apply to WebP; convert it to JPEG or PNG");
  }
  let bitmap;
  try {
    // Profiles and premultiplied alpha would change the numbers that the network was trained on
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Problem(
      file.type.startsWith("image/") && !/jpeg|png|webp|gif|bmp|avif/.test(file.type)
        ? `this browser does not read ${file.type.slice(6).toUpperCase()}; convert it to JPEG or PNG, or use predict.py`
        : "not a readable image, or too large for this browser",
    );
  }
  try {
    if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Problem("it has more than 200 million pixels");
    if (bitmap.width > WIDEST) throw new Problem(`it is wider than ${WIDEST} pixels, which browsers do not draw; use predict.py`);
    return readPixels(bitmap, isJpeg ? draftScale(bitmap.width, bitmap.height) : 1);
  } finally {
    bitmap.close();
  }
}

/** Return the orientation in the EXIF of a WebP, 1 to 8; 1 if it has none. */
async function orientationOfWebp(file) {
  const view = new DataView(await file.arrayBuffer());
  const text = (at) => (at + 4 <= view.byteLength ? String.fromCharCode(...new Uint8Array(view.buffer, at, 4)) : "");
  try {
    for (let at = 12; at + 8 <= view.byteLength; ) {
      const size = view.getUint32(at + 4, true);
      if (text(at) === "EXIF") {
        const start = at + 8 + (text(at + 8) === "Exif" ? 6 : 0);
        const little = view.getUint16(start) === 0x4949;
        const tags = start + view.getUint32(start + 4, little);
        for (let k = 0; k < view.getUint16(tags, little); k += 1) {
          const tag = tags + 2 + 12 * k;
          if (view.getUint16(tag, little) === 0x0112) return view.getUint16(tag + 8, little);
        }
      }
      at += 8 + size + (size % 2);
    }
  } catch {
    return 1; // a damaged EXIF counts as none, as in predict.py
  }
  return 1;
}

/** Return by how much predict.py reduces a big JPEG while it decodes it: 1, 2, 4 or 8. */
function draftScale(width, height) {
  const side = Math.max(SMALLEST_DRAFT, 2 * model.image_size);
  return [8, 4, 2].find((scale) => Math.min(Math.floor(width / side), Math.floor(height / side)) >= scale) || 1;
}

/** Return the RGB pixels of a bitmap, each the mean of scale x scale of its pixels, and a thumbnail. */
function readPixels(bitmap, scale) {
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.ceil(length / scale));
  const pixels = new Uint8Array(width * height * 3);
  const context = makeCanvas(bitmap.width, Math.min(STRIP, bitmap.height)).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy"; // transparent pixels replace those of the strip before
  for (let top = 0; top < bitmap.height; top += STRIP) {
    const rows = Math.min(STRIP, bitmap.height - top);
    context.drawImage(bitmap, 0, top, bitmap.width, rows, 0, 0, bitmap.width, rows);
    const { data } = context.getImageData(0, 0, bitmap.width, rows);
    overWhite(data);
    const to = Math.floor(top / scale) * width * 3;
    if (scale === 1) {
      for (let from = 0, at = to; from < data.length; from += 4, at += 3) {
        pixels[at] = data[from];
        pixels[at + 1] = data[from + 1];
        pixels[at + 2] = data[from + 2];
      }
    } else {
      reduce(data, bitmap.width, rows, scale, pixels.subarray(to), width);
    }
  }
  return { pixels, width, height, thumbnail: makeThumbnail(bitmap) };
}

/** Put RGBA pixels on white, rounding like Pillow's alpha_composite. */
function overWhite(data) {
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    if (alpha === 255) continue;
    for (let channel = at; channel < at + 3; channel += 1) {
      const sum = data[channel] * alpha * 128 + 255 * (255 - alpha) * 128 + 16384;
      data[channel] = (((sum >> 8) + sum) >> 8) >> 7;
    }
  }
}

/** Write the means of squares of scale x scale pixels; squares at the right and lower edge may be smaller. */
function reduce(data, width, rows, scale, pixels, reducedWidth) {
  for (let y = 0; y < rows; y += scale) {
    for (let x = 0; x < width; x += scale) {
      const bottom = Math.min(y + scale, rows);
      const right = Math.min(x + scale, width);
      const n = (bottom - y) * (right - x);
      let [red, green, blue] = [0, 0, 0];
      for (let line = y; line < bottom; line += 1) {
        for (let at = 4 * (line * width + x), end = 4 * (line * width + right); at < end; at += 4) {
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      const to = 3 * ((y / scale) * reducedWidth + x / scale);
      pixels[to] = Math.round(red / n);
      pixels[to + 1] = Math.round(green / n);
      pixels[to + 2] = Math.round(blue / n);
    }
  }
}

function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function makeThumbnail(bitmap) {
  const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(length * scale)));
  const canvas = makeCanvas(width, height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

// ---- Where the network looks (Grad-CAM), drawn as in inference/explain/overlay.py

/** Return the box of an image that the network sees, and the box of its input that this fills, as in datamodules/decode.py. */
function place(width, height) {
  const size = model.image_size;
  if (model.fit === "crop") {
    const side = Math.min(width, height);
    const [left, top] = [(width - side) / 2, (height - side) / 2];
    return { used: [left, top, left + side, top + side], filled: [0, 0, size, size] };
  }
  if (model.fit === "pad") {
    const longer = 2 * Math.max(width, height);
    const [across, down] = [width, height].map((length) => Math.max(1, Math.floor((2 * size * length + longer / 2) / longer)));
    const [left, top] = [Math.floor((size - across) / 2), Math.floor((size - down) / 2)];
    return { used: [0, 0, width, height], filled: [left, top, left + across, top + down] };
  }
  return { used: [0, 0, width, height], filled: [0, 0, size, size] };
}

/** Round like Python: halves to the even number. */
function roundEven(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** Return, for each of n places, the first index and the weights of Pillow's bilinear filter from start to end of a line. */
function linearFilter(length, start, end, n) {
  const step = (end - start) / n;
  const support = Math.max(1, step);
  return Array.from({ length: n }, (_, place) => {
    const center = start + (place + 0.5) * step;
    const first = Math.max(0, Math.floor(center - support + 0.5));
    const last = Math.min(length, Math.floor(center + support + 0.5));
    const weights = [];
    for (let k = first; k < last; k += 1) weights.push(Math.max(0, 1 - Math.abs(k + 0.5 - center) / support));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** Draw heat, scaled to its largest value, in colors over the part of gray RGBA pixels that the network saw. */
function drawHeat(data, width, height, { values, rows, columns }) {
  const { used, filled } = place(width, height);
  const [left, top] = used.map(roundEven);
  const [right, bottom] = [Math.max(left + 1, roundEven(used[2])), Math.max(top + 1, roundEven(used[3]))];
  const edges = filled.map((edge, k) => (edge * (k % 2 ? rows : columns)) / model.image_size);
  const across = linearFilter(columns, edges[0], edges[2], right - left);
  const down = linearFilter(rows, edges[1], edges[3], bottom - top);
  const most = Math.max(...values) || 1;
  const colors = model.maps.colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  const { opacity } = model.maps;
  overWhite(data);
  for (let at = 0; at < data.length; at += 4) {
    data.fill((data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 32768) >> 16, at, at + 3);
    data[at + 3] = 255;
  }
  down.forEach((line, y) => {
    const row = Array.from({ length: columns }, (_, x) =>
      line.weights.reduce((sum, weight, k) => sum + weight * values[(line.first + k) * columns + x], 0),
    );
    across.forEach((column, x) => {
      const sum = column.weights.reduce((total, weight, k) => total + weight * row[column.first + k], 0);
      const color = colors[Math.round(255 * Math.min(1, Math.max(0, sum / most)))];
      const at = 4 * ((top + y) * width + left + x);
      for (const k of [0, 1, 2]) data[at + k] = Math.round(opacity * color[k] + (1 - opacity) * data[at + k]);
    });
  });
}

/** Return a canvas with the heat over a thumbnail. */
function makeOverlay(thumbnail, heat) {
  const { width, height } = thumbnail;
  const image = thumbnail.getContext("2d").getImageData(0, 0, width, height);
  drawHeat(image.data, width, height, heat);
  const canvas = makeCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// ---- Decisions, as in inference/predictor.py

/** Return the prediction and the decision that follow from an image's probabilities. */
function decide(probabilities) {
  if (!probabilities.every(Number.isFinite)) throw new Problem("the network gives NaN for it");
  const { classes, decision } = model;
  const confidence = Math.max(...probabilities);
  const found = { probabilities, confidence, predicted: classes[probabilities.indexOf(confidence)] };
  if (!decision) return found;
  if (decision.threshold !== null) {
    const positive = classes.indexOf(decision.positive_class);
    found.decided = classes[probabilities[positive] >= decision.threshold ? positive : 1 - positive];
  }
  found.abstained = decision.confidence === null || confidence < decision.confidence;
  const powers = probabilities.map((p) => Math.pow(p / confidence, 1 / decision.temperature));
  found.calibrated = 1 / powers.reduce((sum, power) => sum + power, 0); // of the predicted class
  return found;
}

/** Return `0.913`, rounded up, with enough digits to differ from 1, like format_confidence in common/text.py. */
function formatConfidence(confidence) {
  if (confidence >= 1) return confidence.toFixed(3);
  for (let digits = 3; digits < 9; digits += 1) {
    const text = (Math.ceil(confidence * 10 ** digits - 1e-9) / 10 ** digits).toFixed(digits);
    if (Number(text) < 1) return text;
  }
  return String(confidence);
}

function reasonToAbstain() {
  const { confidence, target_accuracy: target } = model.decision;
  return `confidence below ${formatConfidence(confidence)}, too low for accuracy ${target}`;
}

// ---- predictions.csv, as predict.py writes it, but without fingerprints, because browsers decode JPEG in their own way

function columns() {
  const decided = model.decision && model.decision.threshold !== null ? ["decided"] : [];
  return ["path", "fingerprint", "label", "predicted", ...model.classes.map((name) => `p_${name}`), ...decided, "abstained", "error"];
}

function makeRow(path, found, error = "") {
  const row = { path, error, predicted: found.predicted, decided: found.decided, abstained: found.abstained };
  if (!error) model.classes.forEach((name, k) => (row[`p_${name}`] = found.probabilities[k].toFixed(6)));
  return row;
}

function csv() {
  const names = columns();
  const quote = (value) => {
    const text = value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [names, ...rows.map((row) => names.map((name) => row[name]))];
  return lines.map((line) => `${line.map(quote).join(",")}\n`).join("");
}

// ---- Labeling

/** Label files one by one, after those that are being labeled. */
function label(entries, skipped = 0) {
  const before = clears;
  working = working.then(() => before === clears && labelAll(entries, skipped)).catch((error) => showProblem(error));
  return working;
}

async function labelAll(entries, skipped) {
  stopped = false;
  $("problem").hidden = true;
  $("after").hidden = false;
  $("legend").hidden = !isHeatShown();
  $("stop").hidden = entries.length < 2;
  $("progress").hidden = entries.length < 2;
  $("progress").max = entries.length;
  let done = 0;
  for (const { path, file } of entries) {
    if (stopped) break;
    $("progress").value = done;
    $("status").textContent = `Labeling ${done + 1} of ${entries.length} …`;
    await new Promise((resolve) => setTimeout(resolve)); // let the page draw and react between two images
    await labelOne(path, file);
    done += 1;
  }
  $("progress").hidden = true;
  $("stop").hidden = true;
  showStatus(skipped, entries.length - done);
}

async function labelOne(path, file) {
  let image, row, found;
  try {
    image = await decode(file);
    const { probabilities, heatOf } = await predict(image);
    found = decide(probabilities);
    if (heatOf) found.heat = heatOf(model.classes.indexOf(found.predicted));
    row = makeRow(path, found);
  } catch (error) {
    row = makeRow(path, {}, error instanceof Problem ? error.message : `the browser cannot compute it (${error.message || error})`);
  }
  rows.push(row);
  $("results").prepend(showResult(row, found, image && image.thumbnail));
  while ($("results").childElementCount > MOST_SHOWN) $("results").lastElementChild.remove();
}

// ---- What the reader sees; names of classes and files are texts, never HTML

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function describeCanvas(canvas, text) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  return canvas;
}

function isHeatShown() {
  return $("heat").getAttribute("aria-pressed") === "true";
}

function toggleHeat() {
  const shown = !isHeatShown();
  $("heat").setAttribute("aria-pressed", shown);
  $("legend").hidden = !shown;
  $("results").classList.toggle("with-heat", shown);
  for (const item of $("results").children) if (item.showHeat) item.showHeat(shown);
}

function showResult(row, found, thumbnail) {
  const item = element("li", "", `result${row.abstained ? " abstained" : ""}`);
  const words = element("div");
  item.append(thumbnail ? describeCanvas(thumbnail, row.path) : element("span", "no image", "gone"), words);
  if (found && found.heat) {
    let overlay; // drawn once it is asked for
    item.showHeat = (shown) => {
      if (shown) overlay ||= describeCanvas(makeOverlay(thumbnail, found.heat), `${row.path}: where the network looks for ${row.predicted}`);
      item.firstElementChild.replaceWith(shown ? overlay : thumbnail);
    };
    item.showHeat(isHeatShown());
    if (!found.heat.values.some((value) => value > 0)) {
      item.append(element("p", `No position of the last feature map adds to ${row.predicted}: nothing is colored.`, "heat quiet"));
    }
  }
  if (row.error) {
    words.append(element("h2", "Not read"), element("p", row.error));
  } else {
    const sure = found.confidence.toFixed(3);
    const guesses = model.decision && model.decision.confidence === null; // it abstains from every image: say what it would answer
    words.append(element("h2", row.abstained && !guesses ? "Abstained" : row.predicted));
    if (guesses) words.append(element("p", `best guess, probability ${sure}`));
    else words.append(element("p", row.abstained ? `${reasonToAbstain()}; most probable: ${row.predicted} (${sure})` : `probability ${sure}`));
    if (row.decided && row.decided !== row.predicted) words.append(element("p", `by its threshold: ${row.decided}`));
    if (model.decision) words.append(element("p", `calibrated ${found.calibrated.toFixed(3)}`, "quiet"));
    item.append(showProbabilities(found.probabilities));
  }
  item.append(element("p", row.path, "path quiet"));
  return item;
}

function showProbabilities(probabilities) {
  const table = element("table");
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
  for (const k of order.slice(0, MOST_CLASSES)) {
    const line = table.insertRow();
    const name = element("th", model.classes[k]);
    name.scope = "row";
    const [bar, filled] = [element("div", "", "bar"), element("span")];
    filled.style.width = `${(100 * probabilities[k]).toFixed(1)}%`;
    bar.append(filled);
    line.append(name);
    line.insertCell().append(bar);
    line.insertCell().textContent = probabilities[k].toFixed(3);
  }
  if (order.length > MOST_CLASSES) {
    const more = element("td", `and ${plural(order.length - MOST_CLASSES, "less probable class", "es")}`, "quiet");
    more.colSpan = 3;
    table.insertRow().append(more);
  }
  return table;
}

function plural(n, word, ending = "s") {
  return `${n} ${word}${n === 1 ? "" : ending}`;
}

/** Return a name for the middle of a sentence, whose other words keep their places where it is written from right to left. */
function isolate(name) {
  const plain = name.replaceAll(/[\u202a-\u202e\u2066-\u2069]/g, "");
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(plain) ? `\u2068${plain}\u2069` : plain;
}

function showStatus(skipped = 0, left = 0) {
  const counts = new Map();
  for (const row of rows) counts.set(row.predicted, (counts.get(row.predicted) || 0) + 1);
  const errors = counts.get(undefined) || 0;
  counts.delete(undefined);
  const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 6);
  const shown = most.map(([name, n]) => `${n} as ${isolate(name)}`);
  const others = rows.length - errors - most.reduce((sum, [, n]) => sum + n, 0);
  if (others) shown.push(`${others} as other classes`);
  const parts = [`${plural(rows.length, "image")}: ${shown.join(", ") || "none labeled"}`];
  if (model.decision && model.decision.confidence !== null) parts.push(`abstained from ${rows.filter((row) => row.abstained).length}`);
  if (errors) parts.push(`not read ${errors}`);
  if (left) parts.push(`stopped before ${left} more`);
  if (skipped) parts.push(`${plural(skipped, "file")} skipped that ${skipped === 1 ? "is not an image" : "are not images"} by name`);
  if (rows.length > MOST_SHOWN) parts.push(`the last ${MOST_SHOWN} are shown, the table has all`);
  $("status").textContent = `${parts.join("; ")}.`;
}

function showProblem(error) {
  $("problem").textContent = error instanceof Problem ? error.message : `Something went wrong: ${error.message || error}`;
  $("problem").hidden = false;
}

function describeNetwork() {
  const names = model.classes.slice(0, 12).map(isolate);
  const more = model.classes.length - names.length;
  const last = more ? plural(more, "more class", "es") : names.pop();
  const { decision } = model;
  let abstains = "";
  if (decision) {
    const { confidence, target_accuracy: target } = decision;
    abstains =
      confidence === null
        ? ` Its answers are best guesses: accuracy ${target} cannot be promised for any image, so the table says abstained for each.`
        : ` It abstains where its confidence is below ${formatConfidence(confidence)}, for accuracy ${target}.`;
  }
  const shallow = model.found_range
    ? " It was trained on images of more than 8 bits per channel: those of 8 bits, which browsers read, were made in another way, and " +
      "its predictions may be wrong."
    : "";
  $("about").textContent =
    `This network distinguishes ${names.join(", ")} and ${last}, and predicts one of them for any other image, too.${abstains}${shallow}`;
  $("heat").hidden = !model.maps;
  $("no-heat").hidden = Boolean(model.maps);
}

// ---- Files, folders and the camera

function isImageByName(file) {
  return file.type.startsWith("image/") && !file.name.startsWith(".");
}

/** Label chosen or dropped files; in folders, like predict.py, only those that are images by name. */
function take(entries) {
  const images = entries.filter(({ file, inFolder }) => !inFolder || isImageByName(file));
  images.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  if (images.length) return label(images, entries.length - images.length);
  showProblem(new Problem("The folder has no images that a browser reads (JPEG, PNG, WebP, GIF, BMP, AVIF)."));
}

function entriesOf(files) {
  return [...files].map((file) => {
    const path = file.webkitRelativePath; // begins with the folder's name, as in `predict.py images=FOLDER`
    return { file, path: path || file.name, inFolder: Boolean(path) };
  });
}

/** Return the files of dropped items, including those in nested folders. */
async function entriesOfDrop(items) {
  const found = [];
  const walk = async (entry, path, inFolder) => {
    if (entry.isFile) {
      found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path, inFolder });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await walk(each, `${path}/${each.name}`, true);
    }
  };
  const files = [...items].filter((item) => item.kind === "file");
  const roots = files.map((item) => item.webkitGetAsEntry() || item.getAsFile()).filter(Boolean); // now, because the items are gone later
  for (const root of roots) {
    if (root instanceof File) found.push({ file: root, path: root.name, inFolder: false });
    else await walk(root, root.name, false);
  }
  if (!roots.length) throw new Problem("What was dropped is not a file. Save the image first, then drop or choose it.");
  return found;
}

let camera; // the stream while it is open

async function openCamera() {
  $("camera").disabled = true; // a second stream would stay open
  try {
    if (!navigator.mediaDevices) throw new Problem("The camera needs https:// or this machine's own address (localhost).");
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    $("camera").disabled = false;
    const reasons = { NotAllowedError: "it is not permitted", NotFoundError: "there is none", NotReadableError: "another program uses it" };
    return showProblem(error instanceof Problem ? error : new Problem(`No camera: ${reasons[error.name] || error.message}.`));
  }
  $("problem").hidden = true;
  $("video").srcObject = camera;
  $("viewfinder").hidden = false;
  $("shoot").focus();
}

function closeCamera() {
  if (camera) camera.getTracks().forEach((track) => track.stop());
  camera = undefined;
  $("viewfinder").hidden = true;
  $("camera").disabled = false;
  $("camera").focus();
}

async function shoot() {
  const video = $("video");
  if (!video.videoWidth) return;
  const canvas = makeCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  label([{ path: `camera ${time}.png`, file: new File([blob], "camera.png", { type: "image/png" }) }]);
}

function download() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function clear() {
  stopped = true;
  clears += 1;
  working = working.then(() => {
    rows = [];
    $("results").replaceChildren();
    $("after").hidden = true;
    $("legend").hidden = true;
    $("problem").hidden = true;
    $("status").textContent = "Ready.";
    $("choose").focus();
  });
}

function listen() {
  $("choose").onclick = () => $("files").click();
  $("choose-folder").onclick = () => $("folder").click();
  for (const input of [$("files"), $("folder")]) {
    input.onchange = () => {
      take(entriesOf(input.files));
      input.value = ""; // the same file may be chosen again
    };
  }
  $("camera").onclick = openCamera;
  $("shoot").onclick = shoot;
  $("close-camera").onclick = closeCamera;
  $("download").onclick = download;
  $("stop").onclick = () => (stopped = true);
  $("clear").onclick = clear;
  $("heat").onclick = toggleHeat;
  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (files.length) take(entriesOf(files));
    else showProblem(new Problem("There is no image in the clipboard."));
  });
  document.addEventListener("drop", (event) => entriesOfDrop(event.dataTransfer.items).then(take).catch(showProblem));
}

// A file dropped beside the box, or too early, must not replace the page
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("dragover", () => $("drop").classList.add("over"));
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => $("drop").classList.remove("over"));

load()
  .then(() => {
    listen();
    describeNetwork();
    document.querySelectorAll("#drop button").forEach((button) => (button.disabled = false));
    $("status").textContent = "Ready.";
    // Works without a network from the second visit on, where the browser allows it
    if (navigator.serviceWorker) navigator.serviceWorker.register("service_worker.js").catch(() => {});
  })
  .catch((error) => {
    showProblem(error);
    $("status").textContent = "The network is not loaded.";
  });
