import { el, rebuilder, say } from "./dom";
import { ago, count } from "./format";
import type { Letter, Snapshot } from "./types";

const SHOWN = 8;

function copyable(command: string, label: string): HTMLElement {
  const button = el("button", { type: "button", class: "quiet small", "aria-label": `Copy the command: ${label}` }, "Copy");
  button.addEventListener("click", () => {
    void navigator.clipboard.writeText(command).then(
      () => say(button, "Copied"),
      () => say(button, "Select it"),
    );
    setTimeout(() => say(button, "Copy"), 3_000);
  });
  return el("div", { class: "command" }, el("code", { tabindex: 0, role: "group", "aria-label": label }, command), button);
}

function empty(text: string): Node {
  return el("p", { class: "empty" }, text);
}

function failures(snapshot: Snapshot): Node[] {
  if (snapshot.failures.length === 0) return [empty("None in the last five minutes.")];
  const head = el("tr", {}, ...["Version", "Error", "Last 5 min"].map((name, index) => el("th", { scope: "col", class: index === 2 ? "number" : "" }, name)));
  const rows = snapshot.failures.slice(0, SHOWN).map((failure) =>
    el(
      "tr",
      {},
      el("td", {}, `${failure.model} ${failure.version}`),
      el("td", {}, el("code", {}, failure.code)),
      el("td", { class: "number" }, count(failure.count)),
    ),
  );
  return [el("div", { class: "wide" }, el("table", { class: "list" }, el("thead", {}, head), el("tbody", {}, ...rows)))];
}

function letterItem(letter: Letter, now_s: number): HTMLElement {
  const version = [letter.model, letter.version].filter(Boolean).join(" ") || "no model";
  return el(
    "li",
    {},
    el(
      "details",
      {},
      el(
        "summary",
        {},
        el("code", { class: "reason" }, letter.reason),
        el("span", { class: "who" }, version),
        el("span", { class: "when" }, ago(now_s - letter.dead_lettered_s)),
      ),
      el("p", {}, letter.detail),
      el("p", { class: "hint" }, `request ${letter.request_id}, attempt ${letter.attempts}, offset ${letter.offset}`),
      letter.cut === null
        ? copyable(`inferlane dead-letters replay ${letter.request_id}`, "replay this request")
        : el("p", { class: "hint" }, `It cannot be replayed: ${letter.cut}.`),
    ),
  );
}

/** Failures by code, and the dead letters with how to send them again. */
export function startProblems(failuresRoot: HTMLElement, lettersRoot: HTMLElement): (snapshot: Snapshot) => void {
  const rebuildFailures = rebuilder(failuresRoot);
  const counts = el("div");
  const list = el("div");
  lettersRoot.append(counts, list);
  const rebuildCounts = rebuilder(counts);
  const rebuildList = rebuilder(list);
  return (snapshot) => {
    const { letters } = snapshot;
    rebuildFailures(snapshot.failures, () => failures(snapshot));
    const reasons = Object.entries(letters.by_reason);
    rebuildCounts([letters.kept, reasons], () => {
      if (letters.kept === 0 && reasons.length === 0) return [empty("None: every request was served or answered.")];
      const chips = reasons.map(([reason, number]) =>
        el("li", {}, el("strong", {}, count(number)), " ", el("code", {}, reason)),
      );
      const first = reasons[0]?.[0];
      return [
        el("p", { class: "hint" }, `${count(letters.kept)} kept. By reason, of the last day:`),
        el("ul", { class: "chips", "aria-label": "Dead letters by reason" }, ...chips),
        el("p", { class: "hint" }, "When the cause is mended, send them again under the same ids:"),
        copyable(`inferlane dead-letters replay ${first === undefined ? "--all" : `--reason ${first}`}`, "replay by reason"),
      ];
    });
    // The minute is part of the key, so that "2 min ago" moves on and an opened letter is not closed each second.
    rebuildList([letters.newest, letters.newest.length > 0 && Math.floor(snapshot.at_s / 60)], () => {
      const open = new Set([...list.querySelectorAll("li")].flatMap((item) => (item.querySelector("details")?.open ? [item.dataset["offset"]] : [])));
      const items = letters.newest.slice(0, SHOWN).map((letter) => {
        const item = letterItem(letter, snapshot.at_s);
        item.dataset["offset"] = String(letter.offset);
        if (open.has(String(letter.offset))) item.querySelector("details")!.open = true;
        return item;
      });
      return items.length === 0 ? [] : [el("ul", { class: "letters", "aria-label": "The newest dead letters" }, ...items)];
    });
  };
}
