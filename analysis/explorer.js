// The example explorer: a query patch of an image, what it attends to, |Δ|, and its score after distance.
{
  const view = document.getElementById("explorer-view");
  if (view) explore(view, JSON.parse(document.getElementById("explorer-data").textContent));

  function explore(view, data) {
    const [rows, columns] = data.grid;
    const count = rows * columns;
    const chosen = { model: 0, image: 0, layer: 0, query: Math.floor(rows / 2) * columns + Math.floor(columns / 2), key: null };
    const photographs = data.images.map((image) => Object.assign(new Image(), { src: image.rgb }));
    const unpacked = new Map();
    const grid = (name) => view.querySelector(`[data-grid="${name}"] canvas.patches`);
    const legend = (name) => view.querySelector(`[data-grid="${name}"] .legend`);
    const readout = view.querySelector(".readout");
    const example = () => data.models[chosen.model].images[chosen.image];

    // The chosen example's bytes; null where another has been chosen while they were unpacked.
    const bytes = async () => {
      const at = example();
      if (!unpacked.has(at)) unpacked.set(at, await unpack(at.data));
      return at === example() ? unpacked.get(at) : null;
    };

    // What is known of the query and every key, decoded.
    const current = (planes) => {
      const { depth, scales } = example();
      const layer = chosen.layer - data.models[chosen.model].skipped;
      const [low, high, reach] = scales[layer];
      const start = 2 * layer * count * count + chosen.query * count;
      const apart = (a, b) => (a === null || b === null ? null : Math.abs(a - b));
      return {
        depth, low, high, reach,
        attention: (key) => 10 ** decoded(planes[start + key], low, high),
        delta: (key) => apart(depth[chosen.query], depth[key]),
        residual: (key) => decoded(planes[start + count * count + key], -reach, reach),
      };
    };

    const mark = (canvas) => {
      outline(canvas, rows, columns, chosen.query, "#ffffff", "#000000");
      if (chosen.key !== chosen.query) outline(canvas, rows, columns, chosen.key, "#000000", "#ffffff", [5, 4]);
    };

    const share = (value, low, high) => (value === null ? null : (value - low) / (high - low || 1));

    function drawDepths(now) {
      const seen = now.depth.filter((value) => value !== null);
      const [near, far] = [Math.min(...seen), Math.max(...seen)];
      drawCells(grid("depth"), rows, columns, "depth", (key) => share(now.depth[key], near, far));
      if (seen.length) drawLegend(legend("depth"), "depth", signed(near, 2), signed(far, 2));
      drawCells(grid("delta"), rows, columns, "magnitude", (key) => share(now.delta(key), 0, far - near));
      drawLegend(legend("delta"), "magnitude", "0", digits(seen.length ? far - near : 0, 2));
    }

    function drawMaps(now) {
      drawCells(grid("attention"), rows, columns, "magnitude", (key) =>
        share(Math.log10(now.attention(key)), now.low, now.high));
      drawLegend(legend("attention"), "magnitude", digits(10 ** now.low, 2), digits(10 ** now.high, 2));
      drawCells(grid("residual"), rows, columns, "signed", (key) => share(now.residual(key), -now.reach, now.reach),
        (key) => now.residual(key) < 0);
      drawLegend(legend("residual"), "signed", signed(-now.reach, 2), signed(now.reach, 2));
    }

    function drawPhotograph() {
      const canvas = grid("rgb");
      const picture = photographs[chosen.image];
      if (!picture.complete) picture.addEventListener("load", draw, { once: true });
      else canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    }

    function say(now) {
      const where = (patch) => `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
      const z = (value) => (value === null ? "none" : signed(value, 3));
      const between = Math.hypot(
        Math.floor(chosen.key / columns) - Math.floor(chosen.query / columns), (chosen.key % columns) - (chosen.query % columns));
      const [attention, delta, residual] = [now.attention(chosen.key), now.delta(chosen.key), now.residual(chosen.key)];
      const lines = {
        image: `${data.images[chosen.image].class}, taken for ${example().predicted}`,
        query: `${where(chosen.query)}, z ${z(now.depth[chosen.query])}`,
        key: `${where(chosen.key)}, z ${z(now.depth[chosen.key])}, distance ${digits(between, 3)}`,
        attention: `${digits(attention, 3)}, ${digits(attention * data.tokens, 2)} times uniform`,
        delta: delta === null ? "undefined" : digits(delta, 3),
        residual: residual === null ? "undefined" : signed(residual, 3),
      };
      const names = { delta: "|Δ|", residual: "score after distance" };
      readout.replaceChildren(...Object.entries(lines).map(([name, text]) => {
        const line = document.createElement("div");
        line.dataset.value = name;
        line.append(Object.assign(document.createElement("b"), { textContent: names[name] ?? name }), ` ${text}`);
        return line;
      }));
    }

    async function draw() {
      const planes = await bytes();
      if (!planes) return;
      const now = current(planes);
      if (chosen.key === null) chosen.key = strongest(now);
      drawPhotograph();
      drawDepths(now);
      drawMaps(now);
      for (const canvas of view.querySelectorAll("canvas.patches")) mark(canvas);
      say(now);
      view.dataset.ready = Object.values(chosen).join();
    }

    function strongest(now) {
      let best = chosen.query ? 0 : 1;
      for (let key = 0; key < count; key++) if (key !== chosen.query && now.attention(key) > now.attention(best)) best = key;
      return best;
    }

    // Not every model has plain attention in its first layers.
    function offerLayers() {
      const { skipped } = data.models[chosen.model];
      const select = view.querySelector('[data-choice="layer"]');
      [...select.options].forEach((option, layer) => (option.disabled = layer < skipped));
      chosen.layer = Math.max(chosen.layer, skipped);
      select.value = chosen.layer;
    }

    const choose = (changes) => {
      Object.assign(chosen, changes);
      offerLayers();
      draw();
    };

    for (const select of view.querySelectorAll("select")) {
      select.addEventListener("change", () => choose({ [select.dataset.choice]: Number(select.value), key: null }));
    }
    for (const box of view.querySelectorAll("[data-grid]")) {
      const canvas = box.querySelector("canvas.patches");
      const ofQuery = ["rgb", "depth"].includes(box.dataset.grid);
      canvas.width = columns * Math.max(12, Math.floor(420 / columns));
      canvas.height = (canvas.width / columns) * rows;
      canvas.addEventListener("click", (event) => {
        const place = placeAt(canvas, rows, columns, event);
        if (place !== null) choose(ofQuery ? { query: place, key: null } : { key: place });
      });
      canvas.addEventListener("pointermove", (event) => {
        const place = event.pointerType === "mouse" ? placeAt(canvas, rows, columns, event) : null;
        if (place !== null && place !== chosen.key) choose({ key: place });
      });
      canvas.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (!step) return;
        event.preventDefault();
        const from = ofQuery ? chosen.query : chosen.key;
        const [row, column] = [Math.floor(from / columns) + step[0], (from % columns) + step[1]];
        if (row < 0 || row >= rows || column < 0 || column >= columns) return;
        const place = row * columns + column;
        choose(ofQuery ? { query: place, key: null } : { key: place });
      });
    }
    choose({});
  }
}
