// The head map: a chosen head's mean score by distance and |Δ|.
{
  const source = document.getElementById("heads-data");
  const all = source ? JSON.parse(source.textContent) : {};
  for (const [name, detail] of Object.entries(all)) {
    attach(document.getElementById(name), typeof detail === "string" ? all[detail] : detail); // a name: as that map's
  }

  function attach(host, detail) {
    const canvas = host.querySelector(".axes canvas");
    const readout = host.querySelector(".readout");
    const [first, columns] = detail.distance;
    const rows = detail.rows;
    const heads = detail.reach[0].length;
    const buttons = [...host.querySelectorAll("[data-head]")];
    let planes = null;
    let now = null; // layer and head
    let at = 0; // the cell that is read out
    canvas.width = columns * Math.max(16, Math.floor(400 / columns));
    canvas.height = rows * Math.max(8, Math.floor(300 / rows));
    const [vertical, horizontal] = host.querySelectorAll(".axes > div");
    vertical.firstChild.textContent = (rows * detail.width).toFixed(1);
    horizontal.firstChild.textContent = first;
    horizontal.lastChild.textContent = first + columns;

    const value = (place) => {
      const [layer, head] = now;
      const reach = detail.reach[layer][head];
      return decoded(planes[(layer * heads + head) * rows * columns + place], -reach, reach);
    };
    const upright = (place) => (rows - 1 - Math.floor(place / columns)) * columns + (place % columns); // |Δ| grows upwards

    const choose = async (button) => {
      planes ??= await unpack(detail.data);
      now = button.dataset.head.split(",").map(Number);
      const reach = detail.reach[now[0]][now[1]];
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        other.tabIndex = other === button ? 0 : -1;
      }
      host.querySelector("h4").textContent = button.title;
      drawCells(canvas, rows, columns, "signed", (place) => {
        const found = value(upright(place));
        return found === null ? null : 0.5 + found / (2 * reach);
      }, (place) => value(upright(place)) < 0);
      canvas.setAttribute("aria-label", `mean score by distance, ${first} to ${first + columns - 1}, and |Δ|, 0 to ${(rows * detail.width).toFixed(1)}`);
      drawLegend(host.querySelector(".legend"), "signed", signed(-reach, 2), signed(reach, 2));
      read(detail.count.indexOf(Math.max(...detail.count)));
    };

    const read = (place) => {
      at = place;
      const [bin, column] = [Math.floor(place / columns), place % columns];
      const found = value(place);
      const edges = [bin, bin + 1].map((edge) => (edge * detail.width).toFixed(1)).join("–");
      readout.textContent =
        `|Δ| ${edges}, distance ${first + column}–${first + column + 1}: ` +
        (found === null ? "too few pairs" : `${signed(found, 3)}`) + ` (${detail.count[place].toLocaleString("en")} pairs)`;
    };

    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    for (const button of buttons) {
      button.setAttribute("aria-label", button.title);
      button.addEventListener("click", () => choose(button));
      button.addEventListener("keydown", (event) => {
        const step = steps[event.key];
        if (!step) return;
        event.preventDefault();
        const [layer, head] = button.dataset.head.split(",").map(Number);
        host.querySelector(`[data-head="${layer + step[0]},${head + step[1]}"]`)?.focus();
      });
    }
    for (const kind of ["pointermove", "click"]) {
      canvas.addEventListener(kind, (event) => {
        const place = now && placeAt(canvas, rows, columns, event);
        if (place !== null) read(upright(place));
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const step = now && steps[event.key];
      if (!step) return;
      event.preventDefault();
      const [bin, column] = [Math.floor(at / columns) - step[0], (at % columns) + step[1]];
      if (bin >= 0 && bin < rows && column >= 0 && column < columns) read(bin * columns + column);
    });
    const steepest = buttons.reduce((best, button) => (Number(button.dataset.slope) > Number(best.dataset.slope) ? button : best), buttons[0]);
    if (steepest) choose(steepest);
  }
}
