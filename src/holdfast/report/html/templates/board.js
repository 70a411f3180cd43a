"use strict";
(() => {
  const form = document.querySelector(".controls");
  if (!form) return;
  const bodies = [...document.querySelectorAll(".board:not(.refused) tbody")];
  const given = new Map(bodies.map((body) => [body, [...body.rows]]));
  const [filter, only, select] = ["filter", "only", "sort"].map((id) => document.getElementById(id));
  let column = "", rising = false;

  const value = (row) => row.querySelector(`[data-column="${CSS.escape(column)}"]`)?.dataset.value ?? "";
  const words = (column) => ["name", "verdict", "recipe", "backbone"].includes(column);
  const compare = (a, b) => {
    if (!words(column) && a.dataset.doubt !== b.dataset.doubt) return a.dataset.doubt ? 1 : -1; // its numbers say nothing
    const [one, other] = [value(a), value(b)];
    if (!one || !other) return !one - !other; // what was not measured comes last, whatever the direction
    const order = words(column) ? one.localeCompare(other) : one - other;
    return rising ? order : -order;
  };
  const show = () => {
    let shown = 0, all = 0;
    const wanted = filter.value.trim().toLowerCase();
    for (const [body, rows] of given) {
      body.append(...(column ? [...rows].sort(compare) : rows));
      for (const row of rows) {
        const text = ["name", "recipe", "backbone"].map((one) => row.querySelector(`[data-column="${one}"]`).dataset.value);
        row.hidden = !text.join(" ").toLowerCase().includes(wanted) || (only.checked && row.dataset.verdict !== "ok");
        shown += !row.hidden;
        all += 1;
      }
    }
    document.getElementById("count").textContent = `${shown} of ${all} rows`;
    for (const head of document.querySelectorAll("th[aria-sort], th button")) {
      const own = head.closest("th");
      own.setAttribute("aria-sort", own.dataset.column === column ? (rising ? "ascending" : "descending") : "none");
    }
  };
  const sortBy = (name, up) => {
    [column, rising] = [name, up];
    select.value = [...select.options].some((one) => one.value === name) ? name : "";
    show();
  };
  for (const head of document.querySelectorAll(".board:not(.refused) th[scope=col][data-column]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      const name = head.dataset.column;
      sortBy(name, column === name ? !rising : words(name));
    });
    head.replaceChildren(button);
  }
  select.addEventListener("change", () => sortBy(select.value, words(select.value)));
  filter.addEventListener("input", show);
  only.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
