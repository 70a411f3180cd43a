// Two images and a verifier: their distance, and whether it takes them for the same.

import { bar, count, el, first, line, pictures, trim, waiting } from "./view.js";

const MOST = 2; // the largest distance there is
const same = (result, when) => result.readings[1][when] > 0;
const word = (yes) => (yes ? "same" : "different");
const percent = (rate) => `${Number((100 * rate).toPrecision(2))} %`;

export function pair(about, className, clean, result, trace, steps, genuine) {
  const row = (words, value, threshold) => [el("span", { class: "when" }, words),
    bar(value / MOST, `${words}: distance ${trim(value, 3)}`, threshold && threshold / MOST)];
  if (!result) {
    if (!trace?.length) return waiting(about);
    return line(about, row("now", trace.at(-1)), [el("span", {}, "distance ", el("b", {}, trim(trace.at(-1), 3)))], trace, steps, MOST);
  }
  const [{ before, after }] = result.readings;
  const { threshold, far } = result.verifier;
  const decided = (when) => word(same(result, when));
  const right = same(result, "after") === genuine;
  return line(about, [...row("before", before, threshold), ...row("after", after, threshold)], [
    el("span", {}, "distance ", el("b", {}, trim(before, 3)), " before, ", el("b", {}, trim(after, 3)), " after"),
    first(right, decided("before") === decided("after") ? `${decided("after")}, as before` : `${decided("before")} → ${decided("after")}`),
    el("span", { class: "note" }, `the same below ${trim(threshold, 3)}, the threshold at FAR ${percent(far)}`),
  ], trace, steps, MOST);
}

export const pairDone = (about, result) => `${about.name} takes them for ${same(result, "after") ? "the same" : "different"}`;

export function compared(about, clean, result, report, attack, address, file) {
  const { far, least, genuine, impostors } = result.verifier;
  const { template } = report;
  return el("article", {}, el("h3", {}, about.name),
    pictures(about, result, report, attack, file),
    el("h4", {}, "Compared with"),
    el("figure", { class: "beside" }, el("img", { class: "image", src: file("template"), alt: template.class || template.name }),
      el("figcaption", {}, template.class, el("br"), template.name)),
    el("p", { class: "note" }, `The threshold is for a false accept rate (FAR) of ${percent(far)}, ` +
      `of ${count(impostors)} impostor pairs and ${count(genuine)} genuine ones; the least that they can show is ${percent(least)}.`));
}
