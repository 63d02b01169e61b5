import { isRefused, problemOf, useKey, type Answer } from "./calls";
import { byId, say } from "./dom";

export interface Question {
  title: string;
  body: Node[];
  yes: string;
  /** What the key must be able to do. */
  scope: "admin" | "predict";
  /** Asks for the key at once, because a call without it was refused. */
  needsKey?: boolean;
  act(): Promise<Answer>;
}

/** Asks, acts, and closes when the act went well; a call that is refused asks for a key. Null when the user cancels. */
export function confirmed(question: Question): Promise<Answer | null> {
  const dialog = byId<HTMLDialogElement>("confirm");
  const yes = byId<HTMLButtonElement>("confirm-yes");
  const keyField = byId<HTMLInputElement>("confirm-key-value");
  const keyPart = byId("confirm-key");
  const problem = byId("confirm-problem");
  say(byId("confirm-title"), question.title);
  byId("confirm-body").replaceChildren(...question.body);
  say(yes, question.yes);
  say(byId("confirm-key-hint"), `Needs the scope ${question.scope}. It stays in this page and is forgotten with it.`);
  say(problem, "");
  keyPart.hidden = question.needsKey !== true;
  return new Promise((resolve) => {
    let result: Answer | null = null;
    const form = dialog.querySelector("form");
    const submit = async (event: Event): Promise<void> => {
      event.preventDefault();
      if (keyField.value !== "") useKey(keyField.value.trim());
      yes.disabled = true;
      say(problem, "");
      const answer = await question.act();
      yes.disabled = false;
      if (answer.status >= 200 && answer.status < 300) {
        result = answer;
        dialog.close();
        return;
      }
      say(problem, problemOf(answer));
      if (isRefused(answer)) {
        keyPart.hidden = false;
        keyField.focus();
      }
    };
    const onSubmit = (event: Event): void => void submit(event);
    const cancel = (): void => dialog.close();
    form?.addEventListener("submit", onSubmit);
    byId("confirm-no").addEventListener("click", cancel);
    dialog.addEventListener(
      "close",
      () => {
        form?.removeEventListener("submit", onSubmit);
        byId("confirm-no").removeEventListener("click", cancel);
        keyField.value = "";
        resolve(result);
      },
      { once: true },
    );
    dialog.showModal();
    // The safe choice has the focus, unless there is a field to fill.
    (keyPart.hidden ? byId("confirm-no") : keyField).focus();
  });
}

let gone: ReturnType<typeof setTimeout> | undefined;

export function toast(text: string): void {
  const node = byId("toast");
  say(node, text);
  node.classList.add("shown");
  clearTimeout(gone);
  gone = setTimeout(() => {
    node.classList.remove("shown");
    say(node, "");
  }, 8_000);
}
