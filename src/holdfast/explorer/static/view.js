// From plain data to elements; nothing here asks the server or keeps a state.

export const count = (n) => n.toLocaleString("en");
export const counted = (n, noun, several = `${noun}s`) => `${count(n)} ${n === 1 ? noun : several}`;
export const trim = (value, digits) => String(Number(value.toFixed(digits)));

export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export const hits = (found) => found.filter(Boolean).length;

function dots(found, words) {
  const marks = found.map((match) => el("span", { class: `dot ${match ? "match" : "other"}` }));
  return el("span", { class: "dots", role: "img", "aria-label": `${words}: ${hits(found)} of ${found.length}` }, ...marks);
}

const sorted = (n, total) => Array.from({ length: total }, (_, i) => i < n);

// What is noted step by step, between 0 and a total.
export function curve(trace, steps, total) {
  const [width, height, pad] = [150, 34, 3];
  const x = (i) => pad + ((width - 2 * pad) * i) / Math.max(1, steps);
  const y = (n) => height - pad - ((height - 2 * pad) * n) / Math.max(1, total);
  const points = trace.map((n, i) => `${x(Math.min(i, steps)).toFixed(1)},${y(n).toFixed(1)}`).join(" ");
  const label = `from ${trim(trace[0], 2)} to ${trim(trace.at(-1), 2)} of ${total} in the course of the attack`;
  return svg(
    "svg",
    { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("title", {}, label),
    svg("line", { x1: pad, x2: width - pad, y1: y(0), y2: y(0), class: "floor" }),
    svg("polyline", { points, class: "line" }),
  );
}

// Of what the first answer became.
function verdict(before, after) {
  const word = (found) => (found[0] ? "right" : "wrong");
  if (before[0] === after[0]) return before[0] ? "first answer still right" : "first answer wrong, as before";
  return `first answer ${word(before)} → ${word(after)}`;
}

// One line per model: who, what a picture shows of it, what is said of it, and the curve of its steps.
export function line(about, picture, said, trace, steps, total) {
  return el("li", {},
    el("div", { class: "who" }, el("b", {}, about.name), el("span", { class: "note" }, about.about)),
    el("div", { class: "flip" }, ...picture),
    el("p", { class: "verdict" }, ...said),
    trace?.length ? curve(trace, steps, total) : "");
}

// A share of the whole, from 0 to 1, with a mark where one is given.
export function bar(value, label, mark = null) {
  const parts = [svg("title", {}, label),
    svg("rect", { x: 0, y: 0, width: 200, height: 16, rx: 3, class: "ground" }),
    svg("rect", { x: 0, y: 0, width: 200 * value, height: 16, rx: 3, class: "filled" })];
  if (mark !== null) parts.push(svg("line", { x1: 200 * mark, x2: 200 * mark, y1: 0, y2: 16, class: "mark" }));
  return svg("svg", { class: "bar", viewBox: "0 0 200 16", role: "img", "aria-label": label }, ...parts);
}

// A model whose turn is still to come.
export const waiting = (about) => line(about, [el("span", {}), el("span", { class: "note" }, "not attacked yet")], []);

export const first = (good, words) => el("span", { class: `first ${good ? "kept" : "lost"}` }, `${good ? "✓" : "✕"} ${words}`);

// Of an index only the first results are known.
const place = (n) => (n ? count(n) : "> 10");
const moved = (places, exact) => `place ${place(places[0])} → ${place(places[1])}${exact ? `, exact ${count(exact[0])} → ${count(exact[1])}` : ""}`;

// What would be found if every vector were compared, and where the first result of the index stands then.
function compared(clean, result) {
  const said = (read) => (result ? `${read(clean)} → ${read(result.after)}` : read(clean));
  const found = said((one) => `${hits(one.exact)} of ${one.exact.length}`);
  const first = said((one) => (one.list.length ? count(one.list[0].exact) : "none"));
  return `exact: ${found}; exact place of the first result: ${first}`;
}

// What a model found before, what it finds now. `result` may be missing, or still on its way.
export function ranking(about, className, clean, result, trace, steps) {
  const [before, after, total] = [clean.found, result?.after.found, clean.found.length];
  const running = !after && trace?.length > 0;
  const now = running ? sorted(trace.at(-1), total) : after;
  const when = running ? "now" : "after";
  const share = (found) => [el("b", {}, String(hits(found))), ` of ${found.length}`];
  const found = el("span", {}, `finds ${className} `, ...share(before), now ? " times before, " : " times");
  if (now) found.append(...share(now), ` ${when}`);
  const said = [found];
  if (after) said.push(first(after[0], verdict(before, after)));
  if (clean.exact) said.push(el("span", { class: "note" }, compared(clean, result)));
  if (result?.targets.length === 1) said.push(el("span", { class: "note" }, `target: ${moved(result.targets[0], result.exact_targets?.[0])}`));
  const row = (words, marks) => [el("span", { class: "when" }, words), marks ? dots(marks, words) : el("span", { class: "note" }, "not attacked yet")];
  return line(about, [...row("before", before), ...row(when, now)], said, trace, steps, total);
}

function results(title, list, when, address) {
  const items = list.map((item, i) => {
    const move = when && (item.other === i + 1 ? "stays" : `${when} ${place(item.other)}`);
    const mark = item.match ? "✓" : "✕";
    return el("li", { class: item.match ? "match" : "other" },
      el("img", { class: "image", src: address(item.id), alt: "" }),
      el("span", { class: "place" }, String(i + 1)),
      el("span", { class: "name", title: `${item.class}, ${item.name}` }, `${mark} ${item.class}`),
      move ? el("span", { class: "move" }, move) : "",
      item.exact === null ? "" : el("span", { class: "move" }, `exact ${count(item.exact)}`));
  });
  return el("div", { class: "list" }, el("h4", {}, title), el("ol", {}, ...items));
}

function readings(words, values) {
  const shown = (value, unit) => {
    if (value === null) return "–";
    if (unit === "yes") return value >= 100 ? "yes" : value <= 0 ? "no" : `${trim(value, 1)} %`;
    return unit ? `${trim(value, 2)} ${unit}` : value.toFixed(3);
  };
  const rows = words.map(({ words: text, unit }, i) =>
    el("tr", {}, el("th", { scope: "row" }, text), el("td", {}, shown(values[i].before, unit)), el("td", {}, shown(values[i].after, unit))));
  const head = el("tr", {}, el("td", {}), el("th", { scope: "col" }, "before"), el("th", { scope: "col" }, "after"));
  return el("table", { class: "readings" }, el("thead", {}, head), el("tbody", {}, ...rows));
}

function targets(words, chosen, { targets: places, exact_targets: exact }, address) {
  if (!chosen.length) return "";
  const items = chosen.map((one, i) =>
    el("figure", {}, el("img", { class: "image", src: address(one.id), alt: `${one.class}, ${one.name}` }),
      el("figcaption", {}, one.class, el("br"), moved(places[i], exact?.[i]))));
  return el("div", { class: "targets" }, el("h4", {}, `Target: ${words}`), el("div", { class: "figures" }, ...items));
}

// The image as it is and attacked, what changed, and what was read of it.
export function pictures(about, after, report, attack, file) {
  const figure = (src, alt, ...caption) => el("figure", {}, el("img", { class: "image", src, alt }), el("figcaption", {}, ...caption));
  const adversarial = file("adversarial");
  return el("div", { class: "attacked" },
    figure(file("clean"), "the image as it is", "as it is"),
    figure(adversarial, "the attacked image", "attacked; ", el("a", { href: adversarial, download: `${about.name}-${report.attack}.png` }, "save as PNG")),
    report.amplified
      ? figure(file("perturbation"), "the change, around grey", `the change, ${trim(report.amplified, 1)} times amplified`)
      : figure(file("patch"), "the patch", "the patch, upright"),
    el("div", { class: "facts" },
      readings(attack.readings, after.readings),
      el("p", { class: "note" },
        `${trim(after.changed, 1)} % of the values changed, by ${trim(after.mean, 1)}/255 on average and ${trim(after.largest, 0)}/255 at most.`)));
}

// A model's lists, and the attacked image where there is one.
export function lists(about, clean, after, report, attack, address, file) {
  const parts = [el("h3", {}, about.name)];
  if (after) parts.push(pictures(about, after, report, attack, file), targets(attack.target, report.targets, after, address));
  const found = after
    ? [results("Before", after.before.list, "now", address), results("After", after.after.list, "was", address)]
    : [results("As it is", clean.list, "", address)];
  parts.push(el("div", { class: "lists" }, ...found));
  return el("article", {}, ...parts);
}
