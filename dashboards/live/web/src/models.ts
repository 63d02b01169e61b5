import { makeCard } from "./card";
import { el } from "./dom";
import { makeSplit } from "./split";
import type { ModelCard } from "./types";

/** A section for each model: its split, and a card for each version. Rebuilt only when there are others. */
export function startModels(root: HTMLElement): (models: ModelCard[]) => void {
  let built = "";
  let updates: ((model: ModelCard) => void)[] = [];
  return (models) => {
    const names = JSON.stringify(models.map((model) => [model.name, model.versions.map((card) => card.version)]));
    if (names !== built) {
      built = names;
      updates = [];
      let firstColour = 0;
      const sections = models.map((model) => {
        const { node, update } = makeModel(model, firstColour);
        firstColour += model.versions.length;
        updates.push(update);
        return node;
      });
      root.replaceChildren(...sections);
    }
    models.forEach((model, index) => updates[index]?.(model));
  };
}

function makeModel(model: ModelCard, firstColour: number): { node: HTMLElement; update(model: ModelCard): void } {
  const split = makeSplit(model, firstColour);
  const cards = model.versions.map((card, index) => makeCard(model.name, card.version, firstColour + index));
  const id = `model-${model.name}`;
  const node = el(
    "section",
    { class: "panel model", "aria-labelledby": id },
    el("header", {}, el("h3", { id }, model.name), model.default && el("span", { class: "badge" }, "default"), el("p", {}, model.description)),
    el("div", { class: "model-body" }, split.node, el("div", { class: "cards" }, ...cards.map((card) => card.node))),
  );
  return {
    node,
    update(fresh) {
      split.update(fresh);
      fresh.versions.forEach((card, index) => cards[index]?.update(card));
    },
  };
}
