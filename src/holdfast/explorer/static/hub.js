// A hub: the share of queries that have the image among their first results.

import { bar, count, counted, el, first, line, pictures, trim, waiting } from "./view.js";

const share = (value) => `${trim(value, 1)} %`;
const before = (result, name) => result.readings.find((one) => one.name === name).before;
const after = (result, name) => result.readings.find((one) => one.name === name).after;

const found = (value, words) => bar(value / 100, `${words}: among the first 10 of ${share(value)}`);

export function hub(about, className, clean, result, trace, steps) {
  const row = (words, value) => [el("span", { class: "when" }, words), found(value, words)];
  if (!result) {
    if (!trace?.length) return waiting(about);
    return line(about, row("now", trace.at(-1)), [el("span", {}, "among the first 10 of ", el("b", {}, share(trace.at(-1))), " of other queries")], trace, steps, 100);
  }
  const change = (name) => [el("b", {}, share(before(result, name))), " of other queries before, ", el("b", {}, share(after(result, name))), " after"];
  const wins = after(result, "hit@1") > result.natural["hit@1"];
  return line(about, [...row("before", before(result, "hit@10")), ...row("after", after(result, "hit@10"))], [
    el("span", {}, "among the first 10 of ", ...change("hit@10")),
    first(!wins, `first for ${share(before(result, "hit@1"))} → ${share(after(result, "hit@1"))}, the best natural item for ${share(result.natural["hit@1"])}`),
    el("span", { class: "note" }, `z-score ${trim(before(result, "z"), 1)} → ${trim(after(result, "z"), 1)}, of natural items at most ${trim(result.natural.z, 1)}`),
  ], trace, steps, 100);
}

export const hubDone = (about, result) => `${about.name}: first for ${share(after(result, "hit@1"))} of the queries`;

export function won(about, clean, result, report, attack, address, file) {
  const { natural } = result;
  const items = result.won.map((one) => el("li", {},
    el("img", { class: "image", src: address(one.id), alt: "" }), el("span", { class: "name", title: `${one.class}, ${one.name}` }, one.class)));
  return el("article", {}, el("h3", {}, about.name),
    pictures(about, result, report, attack, file),
    el("p", { class: "note" }, `Made on ${counted(result.made_on, "query", "queries")}, read on ${count(result.read_on)} others. The best natural item is first for ${share(natural["hit@1"])} of them, and among the first 10 of ${share(natural["hit@10"])}.`),
    el("div", { class: "list asking" }, el("h4", {}, items.length ? "Queries that now have it first" : "No query has it first"), el("ol", {}, ...items)));
}
