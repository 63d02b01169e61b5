import { colour, el, rebuilder, say } from "./dom";
import { NOTHING, bytes, count, milliseconds, rate, share } from "./format";
import type { Percentiles, Report, VersionCard } from "./types";

const RANKS = ["p50", "p95", "p99"] as const;
const CLASSES_SHOWN = 3;

function percentileRow(name: string): { row: HTMLTableRowElement; set(values: Percentiles | undefined): void } {
  const cells = RANKS.map(() => el("td"));
  return {
    row: el("tr", {}, el("th", { scope: "row" }, name), ...cells),
    set: (values) => RANKS.forEach((rank, index) => say(cells[index] as Element, milliseconds(values?.[rank] ?? null))),
  };
}

function fact(name: string): { node: HTMLElement; set(text: string): void } {
  const value = el("dd");
  return { node: el("div", {}, el("dt", {}, name), value), set: (text) => say(value, text) };
}

/** One version: what it does now. Made once; `update` is called with each snapshot. */
export function makeCard(model: string, version: string, index: number): { node: HTMLElement; update(card: VersionCard): void } {
  const badge = el("span", { class: "badge" });
  const weight = el("span", { class: "weight" });
  const speed = el("span", { class: "value" });
  const errors = el("span", { class: "value" });
  const errorsBox = el("p", { class: "kpi" }, errors, el("span", { class: "unit" }, "errors"));
  const rows = [percentileRow("total"), percentileRow("queue wait"), percentileRow("inference")] as const;
  const waitBar = el("span", { class: "wait" });
  const inferBar = el("span", { class: "infer" });
  const shareText = el("p", { class: "hint" });
  const predictions = el("div", { class: "predictions" });
  const facts = { waiting: fact("waiting"), workers: fact("workers"), cpu: fact("CPU"), memory: fact("memory"), size: fact("model") };
  const id = `card-${model}-${version}`;
  const node = el(
    "article",
    { class: `card ${colour(index)}`, "aria-labelledby": id },
    el("header", {}, el("span", { class: "swatch", "aria-hidden": "true" }), el("h4", { id }, version), badge, weight),
    el("div", { class: "kpis" }, el("p", { class: "kpi" }, speed, el("span", { class: "unit" }, "/s answered")), errorsBox),
    el(
      "table",
      { class: "latency" },
      el("caption", { class: "hidden" }, `Latency of ${model} ${version} in milliseconds`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "ms"), ...RANKS.map((rank) => el("th", { scope: "col" }, rank)))),
      el("tbody", {}, ...rows.map((row) => row.row)),
    ),
    el("div", { class: "where" }, el("div", { class: "bar", "aria-hidden": "true" }, waitBar, inferBar), shareText),
    predictions,
    el("dl", { class: "facts" }, ...Object.values(facts).map((entry) => entry.node)),
  );
  const rebuild = rebuilder(predictions);
  return {
    node,
    update(card) {
      const { report } = card;
      const latency = report?.latency_ms;
      say(badge, card.quantization === "none" ? "float32" : "int8");
      badge.title = card.quantization === "none" ? "not quantized" : card.quantization;
      say(weight, `${share(card.weight)} of traffic`);
      say(speed, rate(report?.rate_per_s ?? null));
      say(errors, share(report?.error_rate ?? null));
      errorsBox.dataset["tone"] = (report?.error_rate ?? 0) >= 0.01 ? "bad" : "";
      rows[0].set(latency?.total);
      rows[1].set(latency?.queue_wait);
      rows[2].set(latency?.inference);
      const [wait, infer] = [latency?.queue_wait.p95 ?? 0, latency?.inference.p95 ?? 0];
      const part = wait + infer > 0 ? wait / (wait + infer) : 0;
      waitBar.style.width = `${part * 100}%`;
      inferBar.style.width = wait + infer > 0 ? `${(1 - part) * 100}%` : "0";
      say(shareText, wait + infer > 0 ? `${share(part)} of the time is waiting` : "No answer in the last minute");
      facts.waiting.set(count(card.queue.lag_records));
      facts.workers.set(count(report?.resources.workers ?? 0));
      facts.cpu.set(report ? `${(report.resources.cpu_cores * 100).toFixed(0)} %` : NOTHING);
      facts.memory.set(report ? bytes(report.resources.memory_bytes) : NOTHING);
      facts.size.set(bytes(card.size_bytes));
      rebuild([report?.prediction_distribution, report?.prediction_values], () => distribution(report));
    },
  };
}

function distribution(report: Report | null): Node[] {
  const values = report?.prediction_values;
  if (values) {
    const text = Object.entries(values).map(([rank, value]) => `${rank} ${value.toPrecision(3)}`).join(" · ");
    return [el("p", { class: "hint" }, `predicts ${text}`)];
  }
  const classes = Object.entries(report?.prediction_distribution ?? {}).sort((a, b) => b[1] - a[1]);
  const total = classes.reduce((sum, [, rows]) => sum + rows, 0);
  if (total === 0) return [el("div", { class: "bar", "aria-hidden": "true" }), el("p", { class: "hint" }, "No prediction yet")];
  const bar = el("div", { class: "bar", "aria-hidden": "true" });
  classes.forEach(([, rows], rank) => {
    const segment = el("span", { class: `tint t${Math.min(rank, 5)}` });
    segment.style.width = `${(rows / total) * 100}%`;
    bar.append(segment);
  });
  const named = classes.slice(0, CLASSES_SHOWN).map(([name, rows]) => `${name} ${share(rows / total)}`);
  const rest = classes.length - CLASSES_SHOWN;
  return [bar, el("p", { class: "hint" }, `Predicts ${named.join(" · ")}` + (rest > 0 ? ` · ${rest} more` : ""))];
}
