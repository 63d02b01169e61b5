import { el, say } from "./dom";
import { count, milliseconds, rate, share } from "./format";
import type { Snapshot } from "./types";

interface Hop {
  node: HTMLLIElement;
  value: HTMLElement;
  unit: HTMLElement;
  note: HTMLElement;
}

interface Lane {
  node: HTMLLIElement;
  label: HTMLElement;
}

// A queue this long fills the picture of it; the number says the rest.
const FULL_RECORDS = 1_000;

function hop(title: string): Hop {
  const value = el("span", { class: "value" });
  const unit = el("span", { class: "unit" });
  const note = el("p", { class: "note" });
  const node = el("li", { class: "hop" }, el("h3", {}, title), el("p", { class: "big" }, value, " ", unit), note);
  return { node, value, unit, note };
}

function lane(): Lane {
  const label = el("span", { class: "lane-label" });
  const track = el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "moving" }), el("span", { class: "fill" }));
  return { node: el("li", { class: "lane" }, track, label), label };
}

function set(hop: Hop, value: string, unit: string, note: string, tone = ""): void {
  say(hop.value, value);
  say(hop.unit, unit);
  say(hop.note, note);
  hop.node.dataset["tone"] = tone;
}

function move(lane: Lane, speed: number | null, lag: number | null): void {
  // Logarithmic, so that one request a second moves and a thousand do not blur.
  const flowing = speed !== null && speed > 0.05;
  lane.node.classList.toggle("flowing", flowing);
  if (flowing) lane.node.style.setProperty("--period", `${(2.4 / (1 + Math.log10(1 + speed))).toFixed(2)}s`);
  lane.node.classList.toggle("queue", lag !== null);
  if (lag !== null) {
    const filled = Math.min(1, Math.log10(1 + lag) / Math.log10(1 + FULL_RECORDS));
    lane.node.style.setProperty("--filled", `${(filled * 100).toFixed(0)}%`);
    lane.node.dataset["tone"] = lag >= FULL_RECORDS ? "warn" : "";
    say(lane.label, `${count(lag)} waiting`);
  }
}

export function startFlow(root: HTMLElement): (snapshot: Snapshot) => void {
  const [clients, api, router, workers, results] = [hop("Clients"), hop("API"), hop("Router"), hop("Workers"), hop("Results")];
  const [toApi, toRouter, toWorkers, toResults] = [lane(), lane(), lane(), lane()];
  root.append(
    ...[clients, toApi, api, toRouter, router, toWorkers, workers, toResults, results].map((part) => part.node),
  );
  return ({ api: apiSource, broker, flow, models }) => {
    const reports = models.flatMap((model) => model.versions.flatMap((card) => (card.report === null ? [] : [card.report])));
    const p95 = reports.reduce<number | null>((most, report) => {
      const own = report.latency_ms.total.p95;
      return own === null ? most : Math.max(own, most ?? 0);
    }, null);
    const ms = milliseconds(p95);
    set(clients, rate(flow.router.arriving_per_s), "/s", "requests accepted");
    if (apiSource.error === null) set(api, ms, p95 === null || ms.endsWith("s") ? "" : "ms", "p95 of the slowest version");
    else set(api, "no answer", "", "numbers are from before", "bad");
    const brokerTone = broker.error === null ? "" : "bad";
    set(router, rate(flow.router.leaving_per_s), "/s", "routed by the split", brokerTone);
    set(workers, count(flow.workers_alive), flow.workers_alive === 1 ? "worker" : "workers", `${rate(flow.workers.leaving_per_s)}/s inferred`, brokerTone);
    const errors = flow.error_share;
    set(
      results,
      errors === null ? "–" : share(1 - errors),
      errors === null ? "" : "succeeded",
      errors === null ? "no request in the last minute" : `${share(errors)} errors, last minute`,
      errors !== null && errors >= 0.01 ? (errors >= 0.1 ? "bad" : "warn") : "",
    );
    move(toApi, flow.router.arriving_per_s, null);
    move(toRouter, flow.router.leaving_per_s, flow.router.lag_records);
    move(toWorkers, flow.workers.leaving_per_s, flow.workers.lag_records);
    move(toResults, flow.workers.leaving_per_s, null);
  };
}
