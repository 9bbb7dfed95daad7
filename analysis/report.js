// Tabs, links into hidden tabs, what scrolls sideways, and where the reader is. Without this script every panel is visible under its heading.
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
    panel.addEventListener("reveal", () => show(index));
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
{
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let panel = target; panel; panel = panel.parentElement) {
      if (panel.classList.contains("panel")) panel.dispatchEvent(new Event("reveal"));
      if (panel.localName === "details") panel.open = true;
    }
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) reveal(); // the address stays, so no hashchange
  });
  reveal();
}
{
  const told = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("overflows", target.scrollWidth > target.clientWidth + 1);
  });
  for (const each of document.querySelectorAll(".scroll")) told.observe(each);
  addEventListener("beforeprint", () => document.querySelectorAll("details.claims").forEach((each) => (each.open = true)));
}
{
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const mark = (link) => {
    for (const other of links.values()) other.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    const bar = link.parentElement;
    const outside = link.offsetLeft < bar.scrollLeft || link.offsetLeft + link.offsetWidth > bar.scrollLeft + bar.clientWidth;
    if (outside) bar.scrollLeft = link.offsetLeft - 40;
  };
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => mark(links.get(entry.target.id))),
    { rootMargin: "-15% 0px -80% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) if (links.has(section.id)) seen.observe(section);
}
