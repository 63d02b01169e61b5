import { call, isRefused, problemOf, type Answer } from "./calls";
import { confirmed } from "./confirm";
import { byId, el, rebuilder, say } from "./dom";
import { milliseconds, share } from "./format";
import type { ModelCard, TensorInfo } from "./types";

const BY_SPLIT = "by the split";
const WAIT_S = 20;
const CLASSES_SHOWN = 4;

interface Labelled {
  label?: string;
  probabilities?: number[];
}

/** A row of the right shape: what the API documents, else one of zeros. */
function exampleOf(model: ModelCard): unknown {
  return model.example?.[0] ?? zeroRow(model.inputs);
}

function zeroRow(inputs: TensorInfo[]): unknown {
  const rows = inputs.map((input): [string, unknown] => {
    const zero: unknown = input.datatype === "BYTES" ? "" : input.datatype === "BOOL" ? false : 0;
    const row = input.shape.slice(1).reduceRight<unknown>((inner, size) => Array.from({ length: Math.max(size, 1) }, () => inner), zero);
    return [input.name, row];
  });
  return rows.length === 1 ? rows[0]![1] : Object.fromEntries(rows);
}

export function startTry(): (models: ModelCard[]) => void {
  const form = byId<HTMLFormElement>("try-form");
  const modelField = byId<HTMLSelectElement>("try-model");
  const versionField = byId<HTMLSelectElement>("try-version");
  const rowField = byId<HTMLTextAreaElement>("try-row");
  const keyField = byId<HTMLInputElement>("try-key");
  const result = byId("try-result");
  const button = form.querySelector("button")!;
  let models: ModelCard[] = [];
  const rebuildModels = rebuilder(modelField);

  const choose = (): void => {
    const model = models.find((each) => each.name === modelField.value);
    if (model === undefined) return;
    const names = [BY_SPLIT, ...model.versions.map((card) => card.version)];
    versionField.replaceChildren(...names.map((name) => el("option", { value: name === BY_SPLIT ? "" : name }, name)));
    rowField.value = JSON.stringify(exampleOf(model)).replaceAll(",", ", ");
    const shapes = model.inputs.map((input) => `${input.name}: ${input.shape.slice(1).join(" × ") || "one"} ${input.datatype}`);
    say(byId("try-shape"), `One row as JSON. ${shapes.join("; ")}.`);
  };
  modelField.addEventListener("change", choose);

  const ask = async (): Promise<void> => {
    let row: unknown;
    try {
      row = JSON.parse(rowField.value);
    } catch (error) {
      result.replaceChildren(el("p", { class: "problem" }, `The row is no JSON: ${(error as Error).message}`));
      rowField.setAttribute("aria-invalid", "true");
      rowField.focus();
      return;
    }
    rowField.removeAttribute("aria-invalid");
    const body: Record<string, unknown> = { model: modelField.value, instances: [row], timeout_s: WAIT_S };
    if (versionField.value !== "") body["version"] = versionField.value;
    if (keyField.value !== "") body["routing_key"] = keyField.value;
    button.disabled = true;
    say(button, "Asking…");
    const answer = await askUntilDone(body);
    button.disabled = false;
    say(button, "Predict");
    // A dialog gives the focus back to a button that could not take it then.
    if (document.activeElement === document.body) button.focus();
    if (answer !== null) result.replaceChildren(...shown(answer));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void ask();
  });

  return (fresh) => {
    models = fresh;
    rebuildModels(fresh.map((model) => model.name), () => {
      queueMicrotask(choose);
      return fresh.map((model) => el("option", { value: model.name, selected: model.default }, model.name));
    });
  };
}

async function askUntilDone(body: Record<string, unknown>): Promise<Answer | null> {
  let answer: Answer | null = await call("api/predict", body);
  if (isRefused(answer)) {
    const why = el("p", {}, problemOf(answer));
    answer = await confirmed({ title: "The API asks for a key", body: [why], yes: "Predict", scope: "predict", needsKey: true, act: () => call("api/predict", body) });
  }
  // The wait ran out; the request did not: its result comes under its id.
  if (answer?.status === 202) answer = await call(`api/predictions/${encodeURIComponent(String(answer.body["request_id"]))}`);
  return answer;
}

function shown(answer: Answer): Node[] {
  const { body } = answer;
  const predictions = body["predictions"] as unknown[] | undefined;
  if (predictions === undefined) {
    const failed = body["error"] as { code: string; detail: string } | undefined;
    const text = failed ? `${failed.code}: ${failed.detail}` : body["status"] === "QUEUED" ? `Still queued after ${WAIT_S} s: ${String(body["request_id"])}` : problemOf(answer);
    return [el("p", { class: "problem" }, text)];
  }
  const timings = body["timings_ms"] as { queue_wait: number; inference: number; total: number } | undefined;
  const unit = (value: number): string => (value >= 1000 ? milliseconds(value) : `${milliseconds(value)} ms`);
  return [
    ...prediction(predictions[0]),
    el(
      "p",
      { class: "hint" },
      `${String(body["model"])} ${String(body["version"])} answered` +
        (timings ? ` in ${unit(timings.total)}: ${unit(timings.queue_wait)} waiting, ${unit(timings.inference)} inference.` : "."),
    ),
    el("details", {}, el("summary", {}, "The whole answer"), el("pre", { tabindex: 0, "aria-label": "Answer as JSON" }, JSON.stringify(body, null, 2))),
  ];
}

function prediction(value: unknown): Node[] {
  const labelled = (typeof value === "object" && value !== null ? value : {}) as Labelled;
  if (labelled.label === undefined) return [el("p", { class: "answer" }, JSON.stringify(value))];
  const best = [...(labelled.probabilities ?? [])].sort((a, b) => b - a).slice(0, CLASSES_SHOWN);
  const bar = el("div", { class: "bar tall s0", "aria-hidden": "true" });
  best.forEach((probability, rank) => {
    const segment = el("span", { class: `tint t${Math.min(rank, 5)}` });
    segment.style.width = `${probability * 100}%`;
    bar.append(segment);
  });
  const sure = best[0] === undefined ? "" : ` ${share(best[0])}`;
  return [el("p", { class: "answer" }, labelled.label, el("span", { class: "sure" }, sure)), ...(best.length > 0 ? [bar] : [])];
}
