import { byId, say } from "./dom";

const STORED = "inferlane-theme";

/** Follows the system until the button says otherwise; `changed` is called when the colours are others. */
export function startTheme(changed: () => void): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  const isDark = (): boolean => (document.documentElement.dataset["theme"] ?? (system.matches ? "dark" : "light")) === "dark";
  const show = (): void => {
    say(button, isDark() ? "Light" : "Dark");
    button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    changed();
  };
  const stored = localStorage.getItem(STORED);
  if (stored === "light" || stored === "dark") document.documentElement.dataset["theme"] = stored;
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset["theme"] = next;
    localStorage.setItem(STORED, next);
    show();
  });
  system.addEventListener("change", show);
  show();
}
