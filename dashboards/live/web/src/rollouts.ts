import { el, rebuilder } from "./dom";
import { count } from "./format";
import type { Rollout } from "./types";

/** Points of 100 at which an interval bar ends. */
const REACH = 5;
const TONES: Record<string, string> = { promoted: "good", "rolled back": "bad", failed: "bad", "rolling back": "bad", paused: "warn" };

/** A panel for each rollout: its steps, and what every check says with its interval. Hidden while there is none. */
export function startRollouts(root: HTMLElement): (rollouts: Rollout[]) => void {
  const rebuild = rebuilder(root);
  return (rollouts) => {
    root.hidden = rollouts.length === 0;
    rebuild(rollouts, () => rollouts.map(panel));
  };
}

function panel(rollout: Rollout): HTMLElement {
  const id = `rollout-${rollout.id}`;
  return el(
    "section",
    { class: "panel rollout", "aria-labelledby": id },
    el(
      "header",
      {},
      el("h3", { id }, `Rollout of ${rollout.model}: ${rollout.stable} → ${rollout.candidate}`),
      el("span", { class: "badge", "data-tone": TONES[rollout.phase] ?? "idle" }, rollout.phase),
    ),
    el("ol", { class: "steps" }, ...rollout.steps.map((step, index) => stepItem(step, index, rollout.step))),
    el("p", {}, `${count(rollout.requests)} requests in this step. ${rollout.says}`),
    rollout.checks.length > 0 && el("ul", { class: "checks" }, ...rollout.checks.map(checkItem)),
  );
}

function stepItem(step: string, index: number, current: number): HTMLElement {
  const state = index < current ? "done" : index === current ? "now" : "next";
  return el("li", { "data-state": state, ...(state === "now" ? { "aria-current": "step" } : {}) }, step);
}

function checkItem(check: Rollout["checks"][number]): HTMLElement {
  return el(
    "li",
    { "data-tone": check.is_failed ? "bad" : "good" },
    el("span", { class: "check" }, check.check),
    el("span", {}, check.says),
    check.low !== null && check.high !== null && interval(check.low, check.high),
  );
}

function interval(low: number, high: number): HTMLElement {
  const text = `${low.toFixed(2)} to ${high.toFixed(2)} points`;
  // A meter takes no inline style, which the page's policy would refuse.
  return el("span", { class: "hint" }, text, el("meter", { min: -REACH, max: REACH, low: -REACH, high: 1, optimum: -1, value: Math.min(REACH, high), "aria-label": `upper bound of the difference: ${text}` }));
}
