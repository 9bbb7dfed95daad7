// Tabs. Without this script every panel is visible under its heading.
document.documentElement.classList.add("scripted");
for (const group of document.querySelectorAll("[data-tabs]")) {
  const panels = [...group.querySelectorAll(":scope > .panel")];
  const bar = group.querySelector(":scope > .tabs");
  const show = (index) => {
    panels.forEach((panel, i) => (panel.hidden = i !== index));
    [...bar.children].forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === index));
      button.tabIndex = i === index ? 0 : -1;
    });
  };
  panels.forEach((panel, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", panel.id);
    button.textContent = panel.dataset.title;
    button.addEventListener("click", () => show(index));
    bar.append(button);
  });
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const now = [...bar.children].findIndex((button) => button.getAttribute("aria-selected") === "true");
    const next = (now + step + panels.length) % panels.length;
    show(next);
    bar.children[next].focus();
  });
  show(0);
}
