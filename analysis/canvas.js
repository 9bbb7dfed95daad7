// What the explorer and the head map share: packed bytes, colours, grids of cells and their legends.
const palettes = JSON.parse(document.getElementById("palettes")?.textContent ?? "{}");
const minus = (text) => String(text).replace("-", "−");
const digits = (value, count) => minus(Number(value.toPrecision(count)));
const signed = (value, count) => (value >= 0 ? "+" : "") + digits(value, count);

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Bytes 1..255 are `low` to `high`; 0 is undefined.
const decoded = (byte, low, high) => (byte ? low + ((byte - 1) / 254) * (high - low) : null);

function colour(palette, share) {
  const steps = palettes[palette];
  return steps[Math.round(Math.min(1, Math.max(0, share)) * (steps.length - 1))];
}

const darkness = (hex) => {
  const [r, g, b] = [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
  return 1 - (0.3 * r + 0.59 * g + 0.11 * b) / 255;
};

// A diagonal says "undefined" without colour.
function stroke(context, ...[x0, y0, x1, y1]) {
  context.strokeStyle = "#b4b4b4";
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

// share(place) in 0..1 or null where undefined; negative(place) adds the stroke that says "below zero" without colour.
function drawCells(canvas, rows, columns, palette, share, negative) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / columns, canvas.height / rows];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const place = row * columns + column;
      const value = share(place);
      const fill = value === null ? palettes[palette === "depth" ? "unmeasured" : "undefined"][0] : colour(palette, value);
      context.fillStyle = fill;
      const [x, y] = [Math.floor(column * width), Math.floor(row * height)];
      context.fillRect(x, y, Math.ceil(width), Math.ceil(height));
      if (value === null) stroke(context, x, y + height, x + width, y);
      if (value !== null && negative?.(place)) {
        context.fillStyle = darkness(fill) > 0.45 ? "#ffffff" : "#303030";
        context.fillRect(x + width * 0.3, y + height * 0.5 - 1, width * 0.4, Math.max(2, height * 0.07));
      }
    }
  }
}

function outline(canvas, rows, columns, place, inner, outer, dash = []) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / columns, canvas.height / rows];
  const [x, y] = [(place % columns) * width, Math.floor(place / columns) * height];
  for (const [style, line, pattern] of [[outer, 7, []], [inner, 3, dash]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.setLineDash(pattern);
    context.strokeRect(x + 2, y + 2, width - 4, height - 4);
  }
  context.setLineDash([]);
}

function drawLegend(legend, palette, low, high) {
  const [left, canvas, right] = legend.children;
  drawCells(canvas, 1, palettes[palette].length, palette, (place) => place / (palettes[palette].length - 1));
  left.textContent = low;
  right.textContent = high;
}

// The patch under a pointer event, or null outside.
function placeAt(canvas, rows, columns, event) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
  const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : null;
}
