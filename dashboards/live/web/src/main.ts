import { startCharts } from "./charts";
import { byId, el, rebuilder, say } from "./dom";
import { startFlow } from "./flow";
import { startModels } from "./models";
import { startProblems } from "./problems";
import { startRollouts } from "./rollouts";
import { follow, type Freshness } from "./stream";
import { startTheme } from "./theme";
import { startTry } from "./try";
import type { Snapshot } from "./types";

const STATES: Record<Freshness["state"], (age_s: number) => string> = {
  connecting: () => "Connecting",
  live: () => "Live",
  // Rounded, so that a screen reader is not told each second.
  old: (age_s) => `Old: ${Math.floor(age_s / 5) * 5} s`,
  lost: () => "Not connected",
};

const charts = startCharts(byId("charts"));
const showFlow = startFlow(byId("flow"));
const showModels = startModels(byId("models"));
const showRollouts = startRollouts(byId("rollouts"));
const showProblems = startProblems(byId("failures"), byId("letters"));
const showTry = startTry();
const rebuildParts = rebuilder(byId("parts"));
let newest: Snapshot | null = null;

function showParts(parts: Snapshot["parts"]): void {
  byId("parts-panel").hidden = parts.length === 0;
  rebuildParts(parts, () =>
    parts.map(({ name, state, restarts }) =>
      el(
        "li",
        { "data-tone": state === "ready" ? "good" : "warn" },
        el("span", { class: "dot", "aria-hidden": "true" }),
        el("span", {}, name),
        el("span", { class: "hint" }, state + (restarts > 0 ? `, restarted ${restarts}×` : "")),
      ),
    ),
  );
}

function showVerdict(tone: string, title: string, detail: string): void {
  byId("headline").dataset["tone"] = tone;
  say(byId("verdict"), title);
  say(byId("verdict-detail"), detail);
}

function showFreshness({ state, age_s }: Freshness): void {
  byId("freshness").dataset["state"] = state;
  document.documentElement.dataset["freshness"] = state;
  say(byId("freshness-text"), STATES[state](age_s));
  if (state === "lost") {
    const from = newest === null ? "" : ` The numbers below are from ${new Date(newest.at_s * 1000).toLocaleTimeString()}.`;
    showVerdict("bad", "The dashboard does not answer", `The stack may have been stopped; this page tries again by itself.${from}`);
  } else if (state === "old") {
    showVerdict("warn", "The numbers are old", "The dashboard is connected and sends nothing new.");
  }
}

startTheme(charts.recolour);
follow({
  history: charts.history,
  snapshot(snapshot) {
    newest = snapshot;
    showVerdict(snapshot.verdict.tone, snapshot.verdict.title, snapshot.verdict.detail);
    showFlow(snapshot);
    showRollouts(snapshot.rollouts);
    showModels(snapshot.models);
    showProblems(snapshot);
    showTry(snapshot.models);
    showParts(snapshot.parts);
    charts.add(snapshot.point);
  },
  freshness: showFreshness,
});
