import { call } from "./calls";
import { confirmed, toast } from "./confirm";
import { colour, el, say } from "./dom";
import type { ModelCard } from "./types";

/** Whole percentages that sum to 100: `index` becomes `value`, the others share the rest as they did before. */
export function rebalance(percents: number[], index: number, value: number): number[] {
  const rest = 100 - value;
  const others = percents.map((percent, other) => (other === index ? 0 : percent));
  const sum = others.reduce((a, b) => a + b, 0);
  const exact = others.map((percent, other) =>
    other === index ? value : sum > 0 ? (percent / sum) * rest : rest / (percents.length - 1),
  );
  const whole = exact.map(Math.floor);
  // What rounding lost goes to those that lost most, one each.
  const order = exact.map((_, other) => other).sort((a, b) => (exact[b]! - whole[b]!) - (exact[a]! - whole[a]!));
  let missing = 100 - whole.reduce((a, b) => a + b, 0);
  for (const other of order) {
    if (missing <= 0) break;
    if (other === index) continue;
    whole[other] = whole[other]! + 1;
    missing -= 1;
  }
  return whole;
}

/** The sliders of one model. They follow the split in force until somebody moves one. */
export function makeSplit(model: ModelCard, firstColour: number): { node: HTMLElement; update(model: ModelCard): void } {
  const names = model.versions.map((card) => card.version);
  let inForce = percentsOf(model);
  let chosen = inForce;
  let moved = false;

  const sliders = names.map((name) =>
    el("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": `Share of ${model.name} ${name} in percent`, disabled: names.length < 2 }),
  );
  const outputs = names.map(() => el("span", { class: "percent" }));
  const bar = el("div", { class: "bar tall", "aria-hidden": "true" });
  const segments = names.map((_, index) => el("span", { class: `solid ${colour(firstColour + index)}` }));
  bar.append(...segments);
  const apply = el("button", { type: "submit", class: "primary", disabled: true }, "Change split…");
  const reset = el("button", { type: "button", class: "quiet", disabled: true }, "Reset");
  const node = el(
    "form",
    { class: "split", "aria-label": `Traffic split of ${model.name}` },
    el("h4", {}, "Traffic split"),
    bar,
    ...names.map((name, index) =>
      el("div", { class: `slide ${colour(firstColour + index)}` }, el("span", { class: "name" }, name), sliders[index]!, outputs[index]!),
    ),
    el("div", { class: "actions" }, reset, apply),
  );

  const show = (): void => {
    chosen.forEach((percent, index) => {
      const slider = sliders[index]!;
      if (Number(slider.value) !== Math.round(percent)) slider.value = String(Math.round(percent));
      slider.style.setProperty("--at", `${percent}%`);
      say(outputs[index]!, `${Number(percent.toFixed(1))} %`);
      segments[index]!.style.width = `${percent}%`;
    });
    const differs = moved && chosen.some((percent, index) => percent !== inForce[index]);
    apply.disabled = !differs;
    reset.disabled = !differs;
  };

  sliders.forEach((slider, index) =>
    slider.addEventListener("input", () => {
      moved = true;
      chosen = rebalance(chosen, index, Number(slider.value));
      show();
    }),
  );
  const backToForce = (): void => {
    moved = false;
    chosen = inForce;
    show();
  };
  reset.addEventListener("click", () => {
    backToForce();
    sliders[0]?.focus();
  });
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = chosen;
    const weights = Object.fromEntries(names.map((name, index) => [name, wanted[index]!]));
    const said = names.map((name, index) => `${name} ${wanted[index]} %`).join(", ");
    void confirmed({
      title: `Change the traffic split of ${model.name}?`,
      body: [changeTable(names, inForce, wanted)],
      yes: "Change split",
      scope: "admin",
      act: () => call("api/traffic-split", { model: model.name, weights }),
    }).then((answer) => {
      if (answer === null) {
        (apply.disabled ? sliders[0] : apply)?.focus();
        return;
      }
      inForce = wanted;
      backToForce();
      toast(`The split of ${model.name} is now ${said}.`);
      sliders[0]?.focus();
    });
  });
  show();
  return {
    node,
    update(fresh) {
      inForce = percentsOf(fresh);
      if (!moved) chosen = inForce;
      show();
    },
  };
}

function percentsOf(model: ModelCard): number[] {
  return model.versions.map((card) => Math.round(card.weight * 1000) / 10);
}

function changeTable(names: string[], from: number[], to: number[]): Node {
  const head = el("tr", {}, ...["Version", "now", "new"].map((name) => el("th", { scope: "col" }, name)));
  const rows = names.map((name, index) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", {}, `${from[index]} %`),
      el("td", { class: from[index] === to[index] ? "" : "changed" }, `${to[index]} %`),
    ),
  );
  return el("table", { class: "change" }, el("thead", {}, head), el("tbody", {}, ...rows));
}
